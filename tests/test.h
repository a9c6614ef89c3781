/* test.h -- the harness. A test is a function; a check that fails is printed and counted, and the
 * test goes on. A test that fails is named; one that checked nothing has failed.
 *
 *     TEST(sum_of_two) { CHECK(1 + 1 == 2); CHECK_MSG(x > 0, "x is %g", x); }
 *     static void run_sum(void) { RUN(sum_of_two); }
 */
#ifndef TEST_H
#define TEST_H
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *filter;             /* run only tests whose name contains it; NULL = all     */
    int verbose;                    /* name every test before it runs                        */
    int stop;                       /* at the first check that fails                         */
    int passed, failed, skipped;    /* tests                                                 */
    int checks, failures, skips;    /* of the test that runs now                             */
    const char *name;               /* its name                                              */
} test_state;

#define TEST(name) static void test_##name(void)
#define RUN(name) test_run(#name, test_##name)
#define CHECK(condition) test_check(!!(condition), __FILE__, __LINE__, "%s", #condition)
/* the message follows the condition; format is a string literal */
#define CHECK_MSG(condition, ...) test_check(!!(condition), __FILE__, __LINE__, __VA_ARGS__)
/* leaves the test; what was checked before still counts */
#define SKIP(reason) do { test_skip(reason); return; } while (0)

#if defined(__GNUC__) && !defined(__TINYC__)
  #if defined(__MINGW32__) && !defined(__clang__)
__attribute__((format(gnu_printf, 4, 5)))
  #else
__attribute__((format(printf, 4, 5)))
  #endif
#endif
static void test_check(int ok, const char *file, int line, const char *format, ...) {
    test_state.checks++;
    if (ok) return;
    if (++test_state.failures <= 5) {
        va_list arguments;
        printf("  %s:%d: %s: ", file, line, test_state.name);
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        printf("\n");
    }
    if (test_state.stop) exit(1);
}

static void test_skip(const char *reason) {
    test_state.skips++;
    printf("  skipped %s: %s\n", test_state.name, reason);
}

static void test_run(const char *name, void (*test)(void)) {
    if (test_state.filter && !strstr(name, test_state.filter)) return;
    test_state.name = name;
    test_state.checks = test_state.failures = test_state.skips = 0;
    if (test_state.verbose) printf("  %s\n", name);
    fflush(stdout);
    test();
    if (test_state.failures) {
        test_state.failed++;
        printf("  FAILED %s: %d of %d checks\n", name, test_state.failures, test_state.checks);
    } else if (test_state.skips) {
        test_state.skipped++;
    } else if (!test_state.checks) {
        test_state.failed++;
        printf("  FAILED %s: it checked nothing\n", name);
    } else {
        test_state.passed++;
    }
}

/* all tests of one file, and a line about them */
static void test_file(const char *name, void (*run)(void)) {
    const int passed = test_state.passed, failed = test_state.failed, skipped = test_state.skipped;
    int n_passed, n_failed, n_skipped;
    run();
    n_passed = test_state.passed - passed;
    n_failed = test_state.failed - failed;
    n_skipped = test_state.skipped - skipped;
    if (!n_passed && !n_failed && !n_skipped) return;
    printf("%-12s %3d of %d", name, n_passed, n_passed + n_failed + n_skipped);
    if (n_failed) printf(", %d failed", n_failed);
    if (n_skipped) printf(", %d skipped", n_skipped);
    printf("\n");
    fflush(stdout);
}

/* the last line, and the exit status: 0 if something ran and nothing failed */
static int test_summary(void) {
    printf("%d passed, %d failed", test_state.passed, test_state.failed);
    if (test_state.skipped) printf(", %d skipped", test_state.skipped);
    printf("\n");
    return test_state.failed || !test_state.passed;
}
#endif
