/* build/tests [-v] [FILTER]: all tests, or those whose name contains FILTER; -v names each one.
 * One translation unit, so that the tests see what is static in llm.h. Run it in the project's root:
 * the goldens are read from tests/data. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "test.h"

/* the kernels of every instruction set that this CPU has, from scalar on; then NULL */
static const llmi_kernels *kernels_at(int i) {
    return i < 0 || i > llmi_last_pass() ? NULL : llmi_kernels_of(i);
}

#include "test_core.c"
#include "test_gemm.c"
#include "test_ops.c"
#include "test_attention.c"
#include "test_loss.c"
#include "test_model.c"
#include "test_parts.c"
#include "test_trainer.c"
#include "test_resume.c"
#include "test_precision.c"
#include "test_session.c"
#include "test_sample.c"
#include "test_json.c"
#include "test_bpe.c"
#include "test_files.c"
#include "test_data.c"

int main(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v")) test_state.verbose = 1;
        else if (argv[i][0] != '-' && !test_state.filter) test_state.filter = argv[i];
        else {
            fprintf(stderr, "usage: %s [-v] [FILTER]\n", argv[0]);
            return 2;
        }
    }
    test_file("core", run_core);
    test_file("gemm", run_gemm);
    test_file("ops", run_ops);
    test_file("attention", run_attention);
    test_file("loss", run_loss);
    test_file("model", run_model);
    test_file("parts", run_parts);
    test_file("trainer", run_trainer);
    test_file("resume", run_resume);
    test_file("precision", run_precision);
    test_file("session", run_session);
    test_file("sample", run_sample);
    test_file("json", run_json);
    test_file("bpe", run_bpe);
    test_file("files", run_files);
    test_file("data", run_data);
    return test_summary();
}
