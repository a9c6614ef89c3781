// embed.cpp -- llm.h in a C++ program: owners that free, errors that are thrown, lambdas.
//
//     c++ -std=c++11 -O2 examples/embed.cpp -o embed
//     ./embed [MODEL_DIRECTORY [TOKEN]...]
//
// Expect sixteen token numbers: the likeliest continuation of the tokens given, or of token 0.
// Without a directory, that of a tiny model with random weights: 139 998 43 ...
#define LLM_IMPLEMENTATION             // in one file; all others include llm.h plainly
#include "../llm.h"
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace {
struct deleter {
    void operator()(llm_model *model) const { llm_model_free(model); }
    void operator()(llm_session *session) const { llm_session_free(session); }
};
template <typename T> using owned = std::unique_ptr<T, deleter>;

struct llm_failure : std::runtime_error {
    llm_result code;
    explicit llm_failure(const llm_error &error) : runtime_error(error.message), code(error.code) {}
};

class generator {
    owned<llm_model> model;            // declared first, so freed last: the session refers to it
    owned<llm_session> session;

public:
    explicit generator(owned<llm_model> given) : model(std::move(given)) {
        llm_error error = llm_error();
        session.reset(llm_session_create(model.get(), nullptr, &error));
        if (!session) throw llm_failure(error);
    }

    // on_token must not throw: there is C between it and the caller
    void run(const std::vector<int32_t> &prompt, int n, std::function<void(int32_t)> on_token) {
        llm_error error = llm_error();
        llm_generate_desc desc = llm_generate_desc();              // all zero: greedy
        desc.max_new_tokens = n;
        desc.user = &on_token;
        desc.on_token = [](int32_t token, void *user) {            // non-zero would cancel
            return (*static_cast<std::function<void(int32_t)> *>(user))(token), 0;
        };
        if (llm_generate(session.get(), prompt.data(), static_cast<int>(prompt.size()), &desc,
                         nullptr, 0, nullptr, &error) != LLM_OK)
            throw llm_failure(error);
    }
};

owned<llm_model> load_or_make(const char *directory) {
    llm_error error = llm_error();
    llm_config tiny = llm_config();
    tiny.arch = LLM_ARCH_GPT2;
    tiny.vocab_size = 1000;
    tiny.max_seq_len = tiny.d_model = 64;
    tiny.n_layers = tiny.n_heads = 2;
    owned<llm_model> model(directory ? llm_model_load(directory, nullptr, &error)
                                     : llm_model_create(&tiny, nullptr, &error));
    if (!model) throw llm_failure(error);
    return model;
}
} // namespace

int main(int argc, char **argv) try {
    std::vector<int32_t> prompt(argc > 2 ? argc - 2 : 1);
    for (int i = 1; i < argc; i++) {
        const std::string text = argv[i];
        if (text == "--help" || text == "-h") {
            std::cout << "usage: embed [MODEL_DIRECTORY [TOKEN]...]\n";
            return 0;
        }
        std::istringstream number(text);
        if (i > 1 && !(number >> prompt[i - 2] && number.eof()))
            throw std::invalid_argument(text + ": not the number of a token");
    }
    generator model(load_or_make(argc > 1 ? argv[1] : nullptr));
    model.run(prompt, 16, [](int32_t token) { std::cout << token << ' ' << std::flush; });
    std::cout << std::endl;
    if (!std::cout) throw std::runtime_error("cannot write to standard output");
} catch (const std::exception &error) {
    std::cerr << "embed: " << error.what() << '\n';
    return 1;
}
