/* train.c -- a DeepSeek-V3 or GPT-2 learns to write like the files it is given.
 *
 *     cc -O2 -fopenmp examples/train.c -o train -lm
 *     ./train --out shakespeare shakespeare.txt                 (--help lists the options)
 *     ./train --out tuned --from gpt2 --lr 5e-5 book.txt        goes on with a trained model
 *
 * Files are texts, or token files (*.tok, of tools/tokenize.c). The tokenizer is learned from the
 * texts, too; the last tenth is kept for validation. Expect a loss that falls from the logarithm of
 * the vocabulary, a sample now and then, and a directory that generate.c and transformers open,
 * with a line per update in log.csv, the model that was best at validation in best/, and
 * checkpoints, from which --resume goes on to the bit. Ctrl-C saves one and stops.
 *
 * mtp: the loss of the module that predicts one token further; load: the least and the most used
 * expert's, mean 1; norm: the gradient's, before it is clipped. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(ok, ...) /* ends the program unless ok; the rest as for printf */ \
    do { if (!(ok)) { fprintf(stderr, "train: " __VA_ARGS__); exit(1); } } while (0)
#define TRY(ok) CHECK(ok, "%s\n", error.message)
static llm_error error;
static int help;

/* ---- options --------------------------------------------------------------------------------- */
/* what stands behind name in args (both become ""), or else; with --help, prints a line about it */
static const char *option(char **args, const char *name, const char *other, const char *about) {
    if (help) printf("  %-14s %s [%s]\n", name, about, other);
    for (; args[0] && args[1]; args++) {
        if (strcmp(args[0], name)) continue;
        CHECK(*args[1] && strncmp(args[1], "--", 2), "%s: without a value\n", name);
        other = args[1];
        args[1] = args[0] += strlen(name);
    }
    return other;
}
static int flag(char **args, const char *name, const char *about) {
    int found = 0;
    if (help) printf("  %-14s %s\n", name, about);
    for (; *args; args++) {
        if (strcmp(*args, name)) continue;
        *args += strlen(name);
        found = 1;
    }
    return found;
}
static double parse(const char *name, const char *text) {
    char *end;
    const double x = strtod(text, &end);
    CHECK(end != text && !*end && x >= 0 && x < 1e9, "%s %s: not a number from 0 to 1e9\n", name,
          text);
    return x;
}
static double number(char **args, const char *name, const char *other, const char *about) {
    return parse(name, option(args, name, other, about));
}
static int integer(char **args, const char *name, const char *other, int least, const char *about) {
    const double x = number(args, name, other, about);
    CHECK(x >= least && x == floor(x), "%s %.10g: not a whole number from %d to 999999999\n", name,
          x, least);
    return (int)x;
}
static float or_off(double x) { return (float)x == 0 ? LLM_OFF : (float)x; }   /* 0: no default */
/* which of the words, divided by |; the first where there is no such option */
static int choice(char **args, const char *name, const char *words, const char *about) {
    const char *text = option(args, name, words, about), *word = words;
    for (int i = 0; text != words; i++) {
        const size_t n = strcspn(word, "|");
        if (strlen(text) == n && !strncmp(text, word, n)) return i;
        CHECK(word[n], "%s %s: not one of %s\n", name, text, words);
        word += n + 1;
    }
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */
/* directory/name, and n behind it unless that is 0; good until the next call */
static const char *in(const char *directory, const char *name, int64_t n) {
    static char path[4096];
    const int size = snprintf(path, sizeof path, "%s/%s%.0lld", directory, name, (long long)n);
    CHECK(size < (int)sizeof path, "%s: too long\n", directory);
    return path;
}
static char *append_file(char *text, size_t *size, const char *path) {
    FILE *file = fopen(path, "rb");
    CHECK(file, "%s: %s\n", path, strerror(errno));
    for (size_t n = 1; n; *size += n) {
        CHECK(text = (char *)realloc(text, *size + 65536), "out of memory\n");
        n = fread(text + *size, 1, 65536, file);
    }
    CHECK(!ferror(file), "%s: %s\n", path, strerror(errno));
    fclose(file);
    return text;
}
/* learns from the first 64 MB or so */
static llm_tokenizer *learn_tokenizer(char **files, int n_files, int vocab) {
    char *text = NULL;
    size_t size = 0;
    for (int i = 0; i < n_files && size < 1 << 26; i++) text = append_file(text, &size, files[i]);
    llm_tokenizer *tokenizer = llm_tokenizer_train(text, size, vocab, NULL, &error);
    TRY(tokenizer);
    free(text);
    return tokenizer;
}
/* texts into a token file, each with an end-of-text token behind it; memory for one at a time */
static void write_tokens(const llm_tokenizer *tokenizer, char **files, int n_files,
                         const char *path) {
    const int32_t end = llm_tokenizer_token(tokenizer, "<|endoftext|>", 13);
    const int vocab = llm_tokenizer_vocab_size(tokenizer);
    llm_data_writer *writer = llm_data_writer_open(path, vocab, NULL, &error);
    TRY(writer);
    for (int i = 0; i < n_files; i++) {
        size_t size = 0, n;
        char *text = append_file(NULL, &size, files[i]);
        int32_t *tokens = (int32_t *)malloc((size + 2) * sizeof *tokens);  /* a byte each or more */
        CHECK(tokens, "out of memory\n");
        TRY(!llm_tokenizer_encode(tokenizer, text, size, 0, tokens, size + 1, &n, &error));
        if (end >= 0) tokens[n++] = end;
        TRY(!llm_data_writer_add(writer, tokens, NULL, n, &error));
        free(tokens);
        free(text);
    }
    TRY(!llm_data_writer_finish(writer, &error));
    llm_data_writer_free(writer);
}
/* token files, their last tenth for validation */
static void open_data(char **files, int n_files, const llm_train_desc *desc, llm_data **data,
                      llm_data **valid) {
    llm_data_desc d;
    memset(&d, 0, sizeof d);
    d.batch_size = desc->batch_size;
    d.seq_len = desc->seq_len;
    d.seed = desc->seed;
    d.valid_fraction = 0.1f;
    TRY(*data = llm_data_open((const char *const *)files, n_files, &d, &error));
    TRY(!llm_data_verify(*data, &error));
    d.valid = d.sequential = 1;
    TRY(*valid = llm_data_open((const char *const *)files, n_files, &d, &error));
}
/* the newest checkpoint-STEP there, 0 if there is none; all but the keep newest are removed */
static int64_t checkpoints(const char *out, int keep) {
    for (;;) {
        int64_t oldest = INT64_MAX, newest = 0;
        int n = 0;
        DIR *directory = opendir(out);
        if (!directory && errno == ENOENT) return 0;
        CHECK(directory, "%s: %s\n", out, strerror(errno));
        for (struct dirent *entry; (entry = readdir(directory));) {
            if (strncmp(entry->d_name, "checkpoint-", 11)) continue;
            const int64_t step = strtoll(entry->d_name + 11, NULL, 10);
            if (step < 1 || strcmp(in(out, "checkpoint-", step) + strlen(out) + 1, entry->d_name))
                continue;                            /* not as we write it */
            n++;
            oldest = step < oldest ? step : oldest;
            newest = step > newest ? step : newest;
        }
        closedir(directory);
        if (n <= keep) return newest;
        const char *path = in(out, "checkpoint-", oldest);
        CHECK(!remove(path), "%s: %s\n", path, strerror(errno));
    }
}
/* removes the files that a run was writing when it was killed: NAME.tmp.PID-NUMBER */
static void remove_halves(const char *out, const char *below) {
    char name[512];
    DIR *directory = opendir(in(out, below, 0));
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        const char *suffix = strstr(entry->d_name, ".tmp.");
        int n = 0;
        if (suffix) sscanf(suffix, ".tmp.%*[0-9]-%*[0-9]%n", &n);
        if (!n || suffix[n]) continue;
        snprintf(name, sizeof name, "%s%s", below, entry->d_name);
        remove(in(out, name, 0));
    }
    if (directory) closedir(directory);
}
/* with the rows up to step that it has; step 0: a new one */
static FILE *open_log(const char *path, int64_t step) {
    char line[512];
    long end = 0;
    FILE *log = step ? fopen(path, "r+") : NULL;
    while (log && fgets(line, sizeof line, log) && strchr(line, '\n') && atoll(line) <= step)
        end = ftell(log);
    if (!log) log = fopen(path, "w");
    CHECK(log && !fseek(log, end, SEEK_SET) && !ftruncate(fileno(log), end), "%s: %s\n", path,
          strerror(errno));
    if (!end)
        fprintf(log, "step,tokens,train_loss,mtp_loss,balance,load_min,load_max,lr,grad_norm,"
                     "tokens_per_second,val_loss\n");
    return log;
}
static void save_model(const llm_model *model, const llm_tokenizer *tokenizer, const char *path) {
    TRY(!llm_model_save(model, path, LLM_F32, &error));
    if (tokenizer) TRY(!llm_tokenizer_save(tokenizer, path, &error));
}
/* dropout: that of the model if below 0; another has to be there when a model is created */
static llm_model *load_model(const char *path, double dropout, const llm_model_desc *desc) {
    llm_model *loaded = llm_model_load(path, desc, &error);
    TRY(loaded);
    if (dropout < 0) return loaded;
    llm_config config = *llm_model_config(loaded);
    config.embd_pdrop = config.attn_pdrop = config.resid_pdrop = (float)dropout;
    llm_model *model = llm_model_create(&config, desc, &error);
    TRY(model);
    for (size_t i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor to = llm_model_tensor(model, i), from = llm_model_tensor(loaded, i);
        size_t n = sizeof(float);
        for (int k = 0; k < to.n_dims; k++) n *= (size_t)to.dims[k];
        memcpy(to.data, from.data, n);
    }
    llm_model_free(loaded);
    return model;
}

/* ---- training -------------------------------------------------------------------------------- */
static volatile sig_atomic_t stopped;
static void stop(int number) {                       /* a second time, it ends the program */
    stopped = 1;
    signal(number, SIG_DFL);
}
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int print_token(int32_t token, void *tokenizer) {
    char text[256];
    size_t n = 0;
    llm_tokenizer_decode((llm_tokenizer *)tokenizer, &token, 1, text, sizeof text, &n, NULL);
    fwrite(text, 1, n < sizeof text ? n : sizeof text, stdout);  /* 0 where it has no such token */
    return ferror(stdout);
}
/* mean loss of batches spread over the validation part */
static double validate(llm_trainer *trainer, const llm_data *valid, int windows, int B, int T,
                       int32_t *x, int32_t *y) {
    const int64_t all = (llm_data_window_count(valid) + B - 1) / B;
    const int64_t wanted = (windows + B - 1) / B, n = wanted < all ? wanted : all;
    llm_train_stats stats;
    double loss = 0;
    for (int64_t i = 0; i < n; i++) {
        TRY(!llm_data_batch(valid, all * i / n, x, y, &error));
        TRY(!llm_trainer_evaluate(trainer, x, y, B, T, &stats, &error));
        loss += (double)stats.main_loss / (double)n;
    }
    return loss;
}

int main(int argc, char **argv) {
    static const char bar[] = "####################....................";
    static struct progress {                         /* kept in checkpoints */
        int64_t step, best_step;
        double best, seconds;                        /* loss of best_step; so far, all runs */
        uint64_t data;                               /* fingerprint */
    } run;
    static llm_config config;                        /* static: all zero, so all defaults */
    static llm_model_desc model_desc;
    static llm_train_desc desc;
    static llm_session_desc session_desc;
    static llm_generate_desc sample;
    static char no_file[] = "llm.h";
    llm_tokenizer *tokenizer = NULL;
    llm_data *data = NULL, *valid = NULL;
    llm_model *model = NULL;
    llm_session *session = NULL;
    llm_train_stats stats;
    llm_memory memory;
    char **args = argv + (argc > 0), **files = args, data_path[4096], name[64];
    const int terminal = isatty(1);
    int n_files = 0, n_token_files = 0;
    int64_t newest = 0;
    size_t size;

    for (int i = 0; args[i]; i++) help |= !strcmp(args[i], "--help") || !strcmp(args[i], "-h");
    if (help) printf("usage: train [OPTION]... [FILE]...    texts, or *.tok; without any: llm.h\n");
    const char *out = option(args, "--out", "model", "directory for model, checkpoints, log.csv");
    const char *given = option(args, "--tokenizer", "", "tokenizer.json, or its directory, to use");
    const int vocab = integer(args, "--vocab", "2048", 257, "else: tokens to learn, 257 or more");
    const char *from = option(args, "--from", "", "directory of a model to go on with");
    const char *arch = option(args, "--arch", "deepseek", "else gpt2: a tiny model of that kind");
    const char *preset = option(args, "--preset", "", "or one of those named below");
    const char *drop = option(args, "--dropout", "", "0 or above; else as --from has it, or 0");
    desc.seq_len = integer(args, "--seq", "128", 1, "tokens of a sequence");
    desc.batch_size = integer(args, "--batch", "8", 1, "sequences at a time");
    desc.grad_accum_steps = integer(args, "--accumulate", "1", 1, "such batches of an update");
    const int steps = integer(args, "--steps", "600", 1, "updates");
    const double limit = number(args, "--seconds", "1e8", "end then, even if updates are left");
    const double lr = number(args, "--lr", "2e-3", "the highest learning rate");
    const char *min_lr = option(args, "--min-lr", "lr/10", "the lowest");
    desc.schedule = (llm_schedule)choice(args, "--schedule", "cosine|wsd|linear|constant",
                                         "how it falls; with wsd in the last tenth");
    const int few = steps < 500 && desc.schedule != LLM_CONSTANT;
    snprintf(name, sizeof name, "%d", few ? steps / 10 : 50);
    desc.warmup_steps = integer(args, "--warmup", name, 0, "updates that it rises first");
    desc.beta2 = or_off(number(args, "--beta2", "0.95", "of AdamW"));
    desc.weight_decay = or_off(number(args, "--weight-decay", "0.1", "of AdamW, on matrices"));
    desc.grad_clip = or_off(number(args, "--clip", "1", "highest norm of the gradient; 0 = any"));
    desc.precision = (llm_precision)choice(args, "--precision", "f32|bf16|fp8", "of products");
    desc.recompute = flag(args, "--recompute", "activations are computed again: less memory");
    desc.seed = (uint64_t)integer(args, "--seed", "1", 0, "of weights, batches and dropout");
    const int eval = integer(args, "--eval", "100", 0, "updates between validations, samples");
    const int windows = integer(args, "--windows", "32", 1, "sequences of a validation");
    const int save = integer(args, "--save", "100", 0, "updates between checkpoints");
    const int keep = integer(args, "--keep", "2", 1, "how many of them stay");
    const int resume = flag(args, "--resume", "go on from the newest; the other options as before");
    const int overwrite = flag(args, "--overwrite", "start anew, even where there is one");
    const int stop_at = integer(args, "--stop-at", "0", 0, "stop like Ctrl-C after that update");
    const int only_memory = flag(args, "--memory", "print how much memory this takes, and end");
    model_desc.n_threads = integer(args, "--threads", "0", 0, "0 = what OpenMP says");
    for (int k = 0; help && llm_config_preset_name(k); k++)
        printf("%s %s", k ? k % 7 ? "" : "\n        " : "presets:", llm_config_preset_name(k));
    if (help) return puts("") < 0;
    for (; *args; args++) {
        CHECK(**args != '-', "%s: unknown, or without a value; see --help\n", *args);
        if (!**args) continue;
        CHECK(!access(*args, R_OK), "%s: %s\n", *args, strerror(errno));
        n_token_files += strlen(*args) > 4 && !strcmp(strrchr(*args, 0) - 4, ".tok");
        files[n_files++] = *args;
    }
    if (!n_files) files[n_files++] = no_file;        /* in the place of an option, or of NULL */
    CHECK(!n_token_files || n_token_files == n_files, "either texts or token files, not both\n");
    desc.learning_rate = or_off(lr);
    desc.min_lr_ratio = !strcmp(min_lr, "lr/10") ? 0.1f : or_off(parse("--min-lr", min_lr) / lr);
    if (desc.schedule != LLM_CONSTANT) desc.max_steps = steps;    /* that one has no end */
    desc.n_threads = model_desc.n_threads;
    model_desc.seed = desc.seed;
    const double dropout = *drop ? parse("--dropout", drop) : -1;

    if (!only_memory) {
        newest = checkpoints(out, INT_MAX);
        CHECK(!resume || newest, "%s has no checkpoint to go on from\n", out);
        CHECK(resume || overwrite || !newest,
              "%s has a checkpoint: give --resume to go on from it, or --overwrite to start anew\n",
              out);
    }

    /* what the model is to predict is the tokenizer's vocabulary */
    if (*given || *from) TRY(tokenizer = llm_tokenizer_load(*given ? given : from, NULL, &error));
    if (n_token_files) {
        open_data(files, n_files, &desc, &data, &valid);
    } else if (!tokenizer && !only_memory) {
        tokenizer = resume ? llm_tokenizer_load(out, NULL, &error)
                           : learn_tokenizer(files, n_files, vocab);
        TRY(tokenizer);
    }
    const int V = data ? llm_data_vocab_size(data)
                       : tokenizer ? llm_tokenizer_vocab_size(tokenizer) : vocab;
    CHECK(!tokenizer || llm_tokenizer_vocab_size(tokenizer) == V,
          "a tokenizer of %d tokens, but token files of %d\n",
          llm_tokenizer_vocab_size(tokenizer), V);

    if (*from) {
        model = load_model(from, dropout, &model_desc);
        config = *llm_model_config(model);
        CHECK(V <= config.vocab_size, "%s has a vocabulary of %d, the data of %d\n", from,
              config.vocab_size, V);
    } else {
        snprintf(name, sizeof name, "%s-tiny", arch);
        TRY(!llm_config_preset(&config, *preset ? preset : name, &error));
        config.vocab_size = V;
        config.embd_pdrop = config.attn_pdrop = config.resid_pdrop = (float)fmax(0, dropout);
    }
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    if (only_memory) {
        printf("parameters %10.1f MB\ngradients %11.1f\noptimizer %11.1f\nactivations %9.1f\n"
               "scratch %13.1f\ntotal %15.1f\n",
               1e-6 * (double)memory.parameters, 1e-6 * (double)memory.gradients,
               1e-6 * (double)memory.optimizer, 1e-6 * (double)memory.activations,
               1e-6 * (double)memory.scratch, 1e-6 * (double)memory.total);
        return 0;
    }
    if (!model) TRY(model = llm_model_create(&config, &model_desc, &error));
    llm_trainer *trainer = llm_trainer_create(model, &desc, &error);
    TRY(trainer);
    if (tokenizer) {
        session_desc.max_seq_len = config.max_seq_len < 128 ? config.max_seq_len : 128;
        session_desc.speculate = sample.speculate = config.mtp_depth > 0;
        TRY(session = llm_session_create(model, &session_desc, &error));
    }
    run.best = INFINITY;
    if (resume) {
        const char *path = in(out, "checkpoint-", newest);
        TRY(!llm_trainer_load(trainer, path, &error));
        const void *kept = llm_trainer_user_data(trainer, &size);
        CHECK(size == sizeof run, "%s: of another program\n", path);
        memcpy(&run, kept, sizeof run);
    }

    /* only now, when all but the texts has been checked, files are written; texts: OUT/data.tok */
    CHECK(!mkdir(out, 0777) || errno == EEXIST, "%s: %s\n", out, strerror(errno));
    remove_halves(out, "");
    remove_halves(out, "best/");
    if (!data) {
        snprintf(data_path, sizeof data_path, "%s", in(out, "data.tok", 0));
        write_tokens(tokenizer, files, n_files, data_path);
        files[0] = data_path;
        open_data(files, 1, &desc, &data, &valid);
    }
    CHECK(!resume || run.data == llm_data_fingerprint(data),
          "%s/checkpoint-%lld was made with other data: the files have changed, or their order\n",
          out, (long long)newest);
    run.data = llm_data_fingerprint(data);
    if (!resume) {
        checkpoints(out, 0);
        if (tokenizer) TRY(!llm_tokenizer_save(tokenizer, out, &error));
    }
    FILE *log = open_log(in(out, "log.csv", 0), run.step);

    const int B = desc.batch_size, T = desc.seq_len, A = desc.grad_accum_steps;
    const size_t n_batch = (size_t)B * (size_t)T;
    int32_t *x = (int32_t *)malloc(2 * n_batch * sizeof *x), *y = x + n_batch;
    CHECK(x, "out of memory\n");
    printf("%lld tokens out of %d; %.2f million parameters, %.2f of them active%s%.0lld\n",
           (long long)llm_data_token_count(data), V, 1e-6 * (double)llm_config_param_count(&config),
           1e-6 * (double)llm_config_active_param_count(&config),
           resume ? "; goes on after update " : "", (long long)run.step);
    sample.sampling.temperature = 0.7f;
    sample.max_new_tokens = 60;
    sample.on_token = print_token;
    sample.user = tokenizer;
    signal(SIGINT, stop);
    signal(SIGTERM, stop);

    const int64_t first = run.step, end = stop_at && stop_at < steps ? stop_at : steps;
    const double start = seconds(), before = run.seconds;
    double now = start, updating = 0;                /* without validation, samples and saving */
    int last = run.step >= steps;
    while (run.step < end && !stopped && !last) {
        const double began = now;
        double loss = 0, mtp = 0, balance = 0, least = INFINITY, most = 0;
        for (int a = 0; a < A; a++) {
            TRY(!llm_data_batch(data, run.step * A + a, x, y, &error));
            TRY(!llm_trainer_step(trainer, x, y, &stats, &error));
            loss += (double)stats.main_loss / A;
            mtp += (double)stats.mtp_loss[0] / A;
            balance += (double)stats.balance_loss / A;
            least = fmin(least, (double)stats.expert_load_min);
            most = fmax(most, (double)stats.expert_load_max);
        }
        now = seconds();
        updating += now - began;
        run.seconds = before + now - start;
        last = ++run.step == steps || run.seconds > limit;
        if (terminal || last || run.step % 50 == 0) {
            const double left = fmax(0, fmin((double)(end - run.step) * (now - start) /
                                                 (double)(run.step - first), limit - run.seconds));
            /* on a terminal: over the line before, and cut off at the margin, not wrapped */
            printf("%s%5lld/%d  loss %.3f", terminal ? "\r\033[?7l" : "", (long long)run.step,
                   steps, loss);
            if (config.mtp_depth) printf(" mtp %.3f", mtp);
            if (config.n_routed_experts) printf("  load %.1f-%.1f", least, most);
            printf("  lr %.1e norm %.2f  %.0f tokens/s  %.0f:%02d left [%.20s]%s",
                   (double)stats.learning_rate, (double)stats.grad_norm,
                   (double)(run.step - first) * A * B * T / updating, floor(left / 60),
                   (int)fmod(left, 60), &bar[20 - run.step * 20 / steps],
                   terminal ? "\033[K\033[?7h" : "\n");
        }
        fprintf(log, "%lld,%lld,%.5f,%.5f,%.4g,%.3g,%.3g,%.4g,%.4g,%.0f,", (long long)run.step,
                (long long)stats.tokens, loss, mtp, balance, least, most,
                (double)stats.learning_rate, (double)stats.grad_norm, A * B * T / (now - began));
        if (last || (eval && run.step % eval == 0)) {
            loss = validate(trainer, valid, windows, B, T, x, y);
            fprintf(log, "%.5f", loss);
            printf("%svalidation loss %.3f, perplexity %.1f%s\n", terminal ? "\n" : "", loss,
                   exp(loss), loss < run.best ? ", the best so far" : "");
            if (loss < run.best) {
                run.best = loss;
                run.best_step = run.step;
                save_model(model, tokenizer, in(out, "best", 0));
            }
            if (session) {
                TRY(!llm_data_batch(valid, 0, x, y, &error));
                if (llm_session_rewind(session, 0, 0, &error) ||
                    llm_generate(session, x, T < 8 ? T : 8, &sample, NULL, 0, NULL, &error))
                    fprintf(stderr, "train: no sample: %s\n", error.message);
                printf("\n\n");
            }
        }
        fputc('\n', log);
        CHECK(!fflush(log), "%s/log.csv: %s\n", out, strerror(errno));
        fflush(stdout);
        if (last || stopped || run.step == end || (save && run.step % save == 0)) {
            fsync(fileno(log));                      /* no row is missing where a run goes on */
            TRY(!llm_trainer_set_user_data(trainer, &run, sizeof run, &error));
            TRY(!llm_trainer_save(trainer, in(out, "checkpoint-", run.step), &error));
            checkpoints(out, keep);
            save_model(model, tokenizer, out);
        }
        now = seconds();
    }
    printf("%s%lld updates in %.0f s; the model is in %s", terminal && !last ? "\n" : "",
           (long long)run.step, run.seconds, out);
    if (run.best_step)
        printf(", the best (loss %.3f, update %lld) in %s/best", run.best, (long long)run.best_step,
               out);
    printf("%s\n", last ? "" : "\nstopped: the same command with --resume goes on from here");
    CHECK(!fflush(stdout) && !ferror(stdout), "standard output: %s\n", strerror(errno));
    fclose(log);
    free(x);
    llm_session_free(session);
    llm_trainer_free(trainer);
    llm_data_close(valid);
    llm_data_close(data);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}
