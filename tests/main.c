/* build/tests [-v] [-x] [FILTER]: all tests, or those whose name contains FILTER; -v names each
 * one, -x stops at the first check that fails.
 * One translation unit, so that the tests see what is static in llm.h. Run it in the project's
 * root: the goldens are read from tests/data. */

/* Mapping and memory that llm.h asks the system for go through the tests, which let them fail. */
#define _DEFAULT_SOURCE 1      /* before any header of the system's, as llm.h has it */
#include <stddef.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
  #include <sys/mman.h>
static int maps_fail;          /* no file can be mapped */
  #define mmap(at, size, access, flags, file, first) \
      (maps_fail ? MAP_FAILED : mmap(at, size, access, flags, file, first))
#endif
static long compares;          /* of strings, in llm.h */
#define memcmp(a, b, n) (compares++, memcmp(a, b, n))
#define strcmp(a, b) (compares++, strcmp(a, b))
static void *default_allocate(size_t size);
static void default_release(void *memory);
#define LLM_MALLOC(size) default_allocate(size)
#define LLM_FREE(memory) default_release(memory)
static void assert_failed(const char *condition, const char *file, int line);
#define LLM_ASSERT(condition) \
    ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))
#define LLM_IMPLEMENTATION
#include "../llm.h"
#undef memcmp
#undef strcmp
#include "test.h"
static void assert_failed(const char *condition, const char *file, int line) {
    test_check(0, file, line, "the library's own promise: %s", condition);
    fflush(stdout);
    exit(1);                   /* what follows would write where it must not */
}
#include "test_tools.h"

#include "test_core.c"
#include "test_gemm.c"
#include "test_types.c"
#include "test_ops.c"
#include "test_attention.c"
#include "test_loss.c"
#include "test_model.c"
#include "test_parts.c"
#include "test_trainer.c"
#include "test_resume.c"
#include "test_precision.c"
#include "test_session.c"
#include "test_rows.c"
#include "test_kept.c"
#include "test_sample.c"
#include "test_json.c"
#include "test_bpe.c"
#include "test_files.c"
#include "test_gguf.c"
#include "test_gguf_files.c"
#include "test_text.c"
#include "test_clone.c"
#include "test_data.c"
#include "test_fuzz.c"
#include "test_refused.c"
#include "test_edges.c"
#include "test_hostile.c"

/* what llm.h took, it has given back */
TEST(default_heap_is_empty) {
    CHECK_MSG(default_heap.live == 0 && default_heap.bytes == 0 && default_heap.wrong == 0,
              "%ld blocks left, %d releases wrong", default_heap.live, default_heap.wrong);
}
static void run_heap(void) { RUN(default_heap_is_empty); }

#ifndef LLM_FUZZ                       /* libFuzzer has its own */
int main(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v")) test_state.verbose = 1;
        else if (!strcmp(argv[i], "-x")) test_state.stop = 1;
        else if (argv[i][0] != '-' && !test_state.filter) test_state.filter = argv[i];
        else {
            fprintf(stderr, "usage: %s [-v] [-x] [FILTER]\n", argv[0]);
            return 2;
        }
    }
    test_file("core", run_core);
    test_file("gemm", run_gemm);
    test_file("types", run_types);
    test_file("ops", run_ops);
    test_file("attention", run_attention);
    test_file("loss", run_loss);
    test_file("model", run_model);
    test_file("parts", run_parts);
    test_file("trainer", run_trainer);
    test_file("resume", run_resume);
    test_file("precision", run_precision);
    test_file("session", run_session);
    test_file("rows", run_rows);
    test_file("kept", run_kept);
    test_file("sample", run_sample);
    test_file("json", run_json);
    test_file("bpe", run_bpe);
    test_file("files", run_files);
    test_file("gguf", run_gguf);
    test_file("gguf_files", run_gguf_files);
    test_file("text", run_text);
    test_file("clone", run_clone);
    test_file("data", run_data);
    test_file("refused", run_refused);
    test_file("edges", run_edges);
    test_file("fuzz", run_fuzz);
    test_file("hostile", run_hostile);
    test_file("heap", run_heap);
    return test_summary();
}
#endif
