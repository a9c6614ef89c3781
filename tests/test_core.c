/* What everything stands on: random numbers, sizes, memory, errors, contexts, the tables of
 * kernels. */

#if LLMI_POOL && LLMI_POSIX
  #include <sys/wait.h>
#endif

/* ---- random numbers -------------------------------------------------------------------------- */
TEST(core_random_published) {
    static const uint64_t seed_1234567[] = {
        UINT64_C(6457827717110365317), UINT64_C(3203168211198807973), UINT64_C(9817491932198370423),
        UINT64_C(4593380528125082431), UINT64_C(16408922859458223821)};
    static const uint64_t seed_0[] = {UINT64_C(0xe220a8397b1dcdaf), UINT64_C(0x6e789e6aa1b965f4),
                                      UINT64_C(0x06c45d188009454f)};
    uint64_t i;
    for (i = 0; i < 5; i++) CHECK(llm_random(1234567, i) == seed_1234567[i]);
    for (i = 0; i < 3; i++) CHECK(llm_random(0, i) == seed_0[i]);
}

TEST(core_random_addresses) {
    static const uint64_t seeds[] = {0, 1, 1234567, UINT64_C(0x8000000000000000), UINT64_MAX};
    int s;
    for (s = 0; s < 5; s++) {
        uint64_t state = seeds[s], n;
        for (n = 0; n < 1000; n++) CHECK(llm_random(seeds[s], n) == plain_random(&state));
        for (n = 1; n; n *= 8) {       /* n steps further on, the state is n constants further on */
            state = seeds[s] + n * UINT64_C(0x9e3779b97f4a7c15);
            CHECK(llm_random(seeds[s], n) == plain_random(&state));
        }
        state = seeds[s] - UINT64_C(0x9e3779b97f4a7c15);
        CHECK(llm_random(seeds[s], UINT64_MAX) == plain_random(&state));
    }
}

TEST(core_random_uniform) {
    enum { N = 200000 };
    double sum = 0.0, squares = 0.0, product = 0.0, before = 0.5, chi = 0.0, n = (double)N;
    int bins[64] = {0}, i, inside = 1, bits = 1;
    /* the published 6457827717110365317 and 9817491932198370423, shifted right by 40 bits */
    CHECK((double)llm_random_uniform(1234567, 0) * 16777216.0 == 5873360.0);
    CHECK((double)llm_random_uniform(1234567, 2) * 16777216.0 == 8928956.0);
    for (i = 0; i < N; i++) {
        const double u = (double)llm_random_uniform(99, (uint64_t)i);
        uint64_t state = 99 + (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15);
        inside = inside && u >= 0.0 && u < 1.0;
        bits = bits && u * 16777216.0 == (double)(plain_random(&state) >> 40);
        if (inside) bins[(int)(u * 64.0)]++;
        sum += u;
        squares += (u - 0.5) * (u - 0.5);
        product += (u - 0.5) * (before - 0.5);
        before = u;
    }
    CHECK(inside);
    CHECK(bits);
    CHECK_MSG(fabs(sum / n - 0.5) < 4.0 * sqrt(1.0 / 12.0 / n), "mean %g", sum / n);
    CHECK_MSG(fabs(squares / n - 1.0 / 12.0) < 4.0 * sqrt(1.0 / 180.0 / n), "variance %g",
              squares / n);
    CHECK_MSG(fabs(product / n) < 4.0 / 12.0 / sqrt(n), "covariance of neighbours %g", product / n);
    for (i = 0; i < 64; i++) chi += (bins[i] - n / 64.0) * (bins[i] - n / 64.0) / (n / 64.0);
    CHECK_MSG(chi < 63.0 + 4.0 * sqrt(2.0 * 63.0), "chi square of 64 bins: %g", chi);
}

TEST(core_random_normal) {
    enum { N = 400000 };
    double m1 = 0.0, m2 = 0.0, m3 = 0.0, m4 = 0.0, product = 0.0, before = 0.0, extreme = 0.0,
           n = (double)N;
    int i, exact = 1;
    for (i = 0; i < N; i++) {
        const double x = (double)llm_random_normal(7, (uint64_t)i);
        m1 += x / n;
        m2 += x * x / n;
        m3 += x * x * x / n;
        m4 += x * x * x * x / n;
        product += x * before / n;
        before = x;
        extreme = fmax(extreme, fabs(x));
        if (i % 97 == 0) {             /* twelve uniform numbers k / 2^16 less their mean */
            uint64_t state = 7 + 3 * (uint64_t)i * UINT64_C(0x9e3779b97f4a7c15);
            double sum = 0.0;
            int j, part;
            for (j = 0; j < 3; j++) {
                uint64_t z = plain_random(&state);
                for (part = 0; part < 4; part++, z >>= 16)
                    sum += ((double)(z & 0xffff) - 65535.0 / 2.0) / 65536.0;
            }
            exact = exact && x == sum;
        }
    }
    CHECK(exact);
    CHECK_MSG(fabs(m1) < 4.0 / sqrt(n), "mean %g", m1);
    CHECK_MSG(fabs(m2 - 1.0) < 4.0 * sqrt(1.9 / n), "variance %g", m2);
    CHECK_MSG(fabs(m3) < 4.0 * sqrt(14.0 / n), "third moment %g", m3);
    /* the sum of twelve uniform numbers has kurtosis 3 - 1.2/12 = 2.9, the normal distribution 3 */
    CHECK_MSG(fabs(m4 / (m2 * m2) - 2.9) < 4.0 * sqrt(80.0 / n), "kurtosis %g", m4 / (m2 * m2));
    CHECK_MSG(fabs(product) < 4.0 / sqrt(n), "covariance of neighbours %g", product);
    CHECK_MSG(extreme > 3.5 && extreme <= 6.0, "extreme %g", extreme);
    CHECK(llm_random_normal(7, 0) != llm_random_normal(8, 0));
}

/* ---- sizes and memory ------------------------------------------------------------------------ */
TEST(core_sizes_saturate) {
    const size_t most = SIZE_MAX, half = SIZE_MAX / 2;
    CHECK(llmi_add(2, 3) == 5 && llmi_add(most, 0) == most && llmi_add(0, most) == most);
    CHECK(llmi_add(most, 1) == most && llmi_add(half + 1, half + 1) == most &&
          llmi_add(most, most) == most);
    CHECK(llmi_add(half, half) == most - 1);
    CHECK(llmi_mul(6, 7) == 42 && llmi_mul(0, most) == 0 && llmi_mul(most, 0) == 0 &&
          llmi_mul(most, 1) == most);
    CHECK(llmi_mul(half, 2) == most - 1 && llmi_mul(half + 1, 2) == most &&
          llmi_mul(most, 2) == most);
    CHECK(llmi_mul(most / 3, 3) == most && llmi_mul(most / 3 + 1, 3) == most &&
          llmi_mul(most, most) == most);
    CHECK(llmi_round_up(0, 64) == 0 && llmi_round_up(1, 64) == 64 && llmi_round_up(64, 64) == 64);
    CHECK(llmi_round_up(65, 64) == 128 && llmi_round_up(10, 3) == 12 && llmi_round_up(9, 3) == 9);
    CHECK(llmi_round_up(most, 64) == most && llmi_round_up(most - 5, 64) == most);
    CHECK(llmi_ceil_div(0, 5) == 0 && llmi_ceil_div(1, 5) == 1 && llmi_ceil_div(5, 5) == 1 &&
          llmi_ceil_div(6, 5) == 2);
    CHECK(llmi_ceil_div(most, 2) == half + 1 && llmi_ceil_div(most, most) == 1);
    CHECK(llmi_min(3, 4) == 3 && llmi_min(most, 4) == 4 && llmi_max(3, 4) == 4 &&
          llmi_max(most, 4) == most);
}

TEST(core_alloc_aligns_and_balances) {
    static const size_t sizes[] = {
        0, 1, 63, 64, 65, 1000, 4096, 100001, (size_t)4 << 20, ((size_t)5 << 20) + 3};
    void *memory[20];
    heap h;
    llm_error err;
    int i, round;
    heap_init(&h);
    for (round = 0; round < 2; round++) {
        const llm_allocator *allocator = round ? &h.allocator : NULL;
        for (i = 0; i < 10; i++) {
            memory[i] = llmi_alloc(allocator, sizes[i], "a block", &err);
            CHECK(memory[i] != NULL);
            if (!memory[i]) continue;
            CHECK_MSG((uintptr_t)memory[i] % 64 == 0, "%lu bytes at %p", (unsigned long)sizes[i],
                      memory[i]);
            memset(memory[i], i + 1, sizes[i]);
        }
        for (i = 0; i < 10; i++) {     /* no block reaches into another */
            const unsigned char *bytes = (const unsigned char *)memory[i];
            if (bytes && sizes[i]) CHECK(bytes[0] == i + 1 && bytes[sizes[i] - 1] == i + 1);
            llmi_release(allocator, memory[i]);
        }
        llmi_release(allocator, NULL);
    }
    CHECK_MSG(h.calls == 10 && h.live == 0 && h.wrong == 0,
              "%ld calls, %ld live, %d releases wrong", h.calls, h.live, h.wrong);
}

TEST(core_alloc_fails) {
    static const size_t too_much[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 63, SIZE_MAX - 100,
                                      SIZE_MAX / 2};
    heap h;
    llm_error err;
    int i;
    for (i = 0; i < 5; i++) {          /* what overflows must not come out small */
        NOT_MADE(LLM_ERR_MEMORY, llmi_alloc(NULL, too_much[i], "the planet", &err), "the planet");
        heap_init(&h);
        CHECK(llmi_alloc(&h.allocator, too_much[i], "the planet", &err) == NULL);
        CHECK(h.live == 0);
    }
    heap_init(&h);
    h.fail_at = 0;
    NOT_MADE(LLM_ERR_MEMORY, llmi_alloc(&h.allocator, (size_t)3 << 20, "the moon", &err),
             "the moon", "3.0 MiB");
    h.fail_at = 1;
    CHECK(llmi_alloc(&h.allocator, 10, "the moon", NULL) == NULL);
}

TEST(core_grow) {
    heap h;
    llm_error err;
    void *memory = NULL, *old;
    size_t capacity = 0, before;
    long calls;
    int i;
    heap_init(&h);
    CHECK(llmi_grow(&h.allocator, &memory, &capacity, 0, 0, "text", &err) == LLM_OK &&
          h.calls == 0);
    CHECK(llmi_grow(&h.allocator, &memory, &capacity, 0, 100, "text", &err) == LLM_OK);
    CHECK(memory != NULL && capacity >= 100 && (uintptr_t)memory % 64 == 0);
    if (!memory) return;
    memset(memory, 42, 100);
    CHECK(llmi_grow(&h.allocator, &memory, &capacity, 100, capacity, "text", &err) == LLM_OK &&
          h.calls == 1);
    CHECK(llmi_grow(&h.allocator, &memory, &capacity, 100, 5000, "text", &err) == LLM_OK);
    CHECK(capacity >= 5000 && h.live == 1);
    for (i = 0; i < 100; i++) CHECK(((const char *)memory)[i] == 42);
    old = memory;
    before = capacity;
    h.fail_at = h.calls;
    REFUSED(LLM_ERR_MEMORY, llmi_grow(&h.allocator, &memory, &capacity, 100, 100000, "text", &err),
            "text");
    CHECK(memory == old && capacity == before && ((const char *)memory)[99] == 42);
    CHECK(llmi_grow(&h.allocator, &memory, &capacity, 100, SIZE_MAX - 10, "text", &err) ==
          LLM_ERR_MEMORY);
    CHECK(memory == old && capacity == before);
    for (i = 0, calls = h.calls; i < 10000; i++)   /* byte by byte: few allocations */
        if (llmi_grow(&h.allocator, &memory, &capacity, capacity, capacity + 1, "text", &err) !=
            LLM_OK)
            break;
        else if (capacity > 1000000) break;
    CHECK_MSG(h.calls - calls < 30, "%ld allocations", h.calls - calls);
    llmi_release(&h.allocator, memory);
    CHECK(h.live == 0 && h.wrong == 0);
}

TEST(core_carve) {
    llmi_arena measure = llmi_arena_at(NULL, 0), bind, over = measure;
    void *block = NULL;
    float *a, *b;
    char *c;
    CHECK(llmi_carve_floats(&measure, 3) == NULL && llmi_carve(&measure, 1, 1) == NULL);
    CHECK(llmi_carve_floats(&measure, 33) == NULL);
    CHECK(measure.used >= 3 * 4 + 1 + 33 * 4);
    bind = measure;
    CHECK(llmi_arena_take(&bind, &block, NULL, "a block", NULL) == LLM_OK);
    if (!block) return;
    CHECK(bind.base == (char *)block && bind.used == 0 && bind.size == measure.used);
    a = llmi_carve_floats(&bind, 3);
    c = (char *)llmi_carve(&bind, 1, 1);
    b = llmi_carve_floats(&bind, 33);
    CHECK(bind.used == measure.used);
    CHECK((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0 && (uintptr_t)c % 64 == 0);
    CHECK((char *)a >= bind.base && c >= (char *)(a + 3) && (char *)b >= c + 1 &&
          (char *)(b + 33) <= bind.base + bind.used);
    llmi_release(NULL, block);
    llmi_carve_floats(&over, SIZE_MAX / 3);
    llmi_carve_floats(&over, 10);
    CHECK(over.used == SIZE_MAX);      /* and no allocation of that size succeeds */
}

/* ---- errors ---------------------------------------------------------------------------------- */
TEST(core_fail) {
    char text[600], control[8] = "a\nb\tc\177";
    llm_error err;
    int i;
    memset(&err, '#', sizeof err);
    CHECK(llmi_fail(&err, LLM_ERR_FORMAT, "%s: %d of %d", "file", 3, 4) == LLM_ERR_FORMAT);
    CHECK(err.code == LLM_ERR_FORMAT && strcmp(err.message, "file: 3 of 4") == 0);
    CHECK(llmi_fail(NULL, LLM_ERR_IO, "%s", "nobody listens") == LLM_ERR_IO);
    for (i = 0; i < 599; i++) text[i] = (char)('a' + i % 26);
    text[599] = 0;
    memset(&err, '#', sizeof err);
    CHECK(llmi_fail(&err, LLM_ERR_NUMERIC, "%s", text) == LLM_ERR_NUMERIC);
    CHECK(err.message[sizeof err.message - 1] == 0 &&
          strlen(err.message) == sizeof err.message - 1);
    CHECK(memcmp(err.message, text, sizeof err.message - 1) == 0 && err.code == LLM_ERR_NUMERIC);
    llmi_fail(&err, LLM_ERR_FORMAT, "%s", control); /* one line, whatever a file's name holds */
    CHECK_MSG(strcmp(err.message, "a?b?c?") == 0, "'%s'", err.message);
    for (i = 1; i < 256; i++) {
        char one[2] = {0, 0};
        one[0] = (char)i;
        llmi_fail(&err, LLM_ERR_FORMAT, "%s", one);
        CHECK_MSG(err.message[0] == (i < 32 || i == 127 ? '?' : one[0]) && err.message[1] == 0,
                  "character %d", i);
    }
    llmi_fail(&err, LLM_ERR_CANCELLED, "%s", "");
    CHECK(err.message[0] == 0 && err.code == LLM_ERR_CANCELLED);
}

/* ---- kernels, contexts, threads -------------------------------------------------------------- */
TEST(core_kernel_tables) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    int i, j, n = 0;
    while (kernels_at(n)) n++;
    CHECK(n >= 1 && n < 100);
    CHECK(kernels_at(-1) == NULL && kernels_at(n) == NULL && kernels_at(INT_MAX) == NULL);
    CHECK(strcmp(kernels_at(0)->name, "scalar") == 0 && kernels_at(0)->w == 1);
    for (i = 0; i < n; i++) {
        const llmi_kernels *k = kernels_at(i);
        CHECK_MSG(k->w >= 1 && k->rows_dot && k->rows_axpy && k->dot && k->square_sum &&
                      k->largest && k->add && k->axpy && k->affine && k->exp_sum &&
                      k->softmax_backward && k->activate && k->activate_backward && k->swiglu &&
                      k->swiglu_backward && k->adamw && k->narrow && k->widen && k->norm &&
                      k->norm_backward && k->norm_backward_weight && k->column_sum,
                  "a kernel of %s is missing", k->name);
        for (j = LLM_PRECISION_FP32; j <= LLM_PRECISION_FP8; j++) {
            const llmi_tiles *tiles = &k->tiles[j];
            CHECK_MSG(tiles->mr >= 1 && tiles->nr % k->w == 0 && tiles->nr >= k->w &&
                          tiles->kc % LLMI_FP8_TILE == 0 && tiles->mc % tiles->mr == 0 &&
                          LLMI_B_COLUMNS % tiles->nr == 0 && tiles->mr <= LLMI_A_ROWS,
                      "sizes of %s, precision %d", k->name, j);
            CHECK_MSG(tiles->k_align % tiles->k_group == 0 && tiles->kc % tiles->k_align == 0 &&
                          (j == LLM_PRECISION_FP8) == (tiles->k_align == LLMI_FP8_TILE) &&
                          LLMI_PACK_PANELS * tiles->mr <= LLMI_FP8_TILE,
                      "steps of %s, precision %d", k->name, j);
            CHECK_MSG(tiles->pack && tiles->block,
                      "a kernel of %s, precision %d is missing", k->name, j);
        }
        CHECK(kernels_at(i) == k);
        for (j = 0; j < i; j++) CHECK(strcmp(kernels_at(j)->name, k->name) != 0);
    }
    CHECK(context && context->kernels == kernels_at(n - 1));
    llm_context_free(context);
}

TEST(core_version) { CHECK(llm_version() == LLM_VERSION && LLM_VERSION >= 100); }

TEST(core_allocator_without_functions) {
    llm_allocator allocator;
    llm_model_desc desc;
    llm_config c = small_config(20, 8, 12, 1, 2);
    llm_error err;
    heap h;
    int i;
    heap_init(&h);
    for (i = 0; i < 2; i++) {
        const char *word = i ? "release" : "allocate";
        allocator = h.allocator;
        if (i) allocator.release = NULL;
        else allocator.allocate = NULL;
        memset(&desc, 0, sizeof desc);
        desc.allocator = &allocator;
        NOT_MADE(LLM_ERR_ARGUMENT, llm_context_create(1, &allocator, &err), "allocator", word);
        NOT_MADE(LLM_ERR_ARGUMENT, llm_model_create(&c, &desc, &err), "allocator", word);
        NOT_MADE(LLM_ERR_ARGUMENT, llm_tokenizer_train("a", 1, 300, &allocator, &err), "allocator",
                 word);
        NOT_MADE(LLM_ERR_ARGUMENT, llm_data_writer_open("build/none", 300, &allocator, &err),
                 "allocator", word);
    }
    CHECK(h.calls == 0);
}

TEST(core_context_threads) {
    static const int bad[] = {-1, -1000, 1025, INT_MAX, INT_MIN};
    static const int good[] = {0, 1, 2, 3, 7, 64, 1024};
    llm_error err;
    int i;
    for (i = 0; i < 5; i++) {
        char value[32];
        snprintf(value, sizeof value, "%d", bad[i]);
        NOT_MADE(LLM_ERR_ARGUMENT, llm_context_create(bad[i], NULL, &err), value, "1024");
        CHECK(llm_context_create(bad[i], NULL, NULL) == NULL);
    }
    for (i = 0; i < 7; i++) {
        llm_context *context;
        memset(&err, '#', sizeof err);
        context = llm_context_create(good[i], NULL, &err);
        CHECK_MSG(context != NULL, "%d threads", good[i]);
        if (!context) continue;
        CHECK_MSG(context->n_threads == good[i] || good[i] == 0, "%d threads", context->n_threads);
        if (good[i] == 0) {
#ifdef _OPENMP
            CHECK(context->n_threads == omp_get_max_threads());
#elif LLMI_POOL && LLMI_POSIX
            CHECK(context->n_threads >= 1 &&
                  context->n_threads <= sysconf(_SC_NPROCESSORS_ONLN));
#elif !LLMI_POOL
            CHECK(context->n_threads == 1);
#endif
        }
        CHECK(err.message[0] == '#');  /* written on failure only */
        llm_context_free(context);
    }
    llm_context_free(NULL);
}

#if LLMI_POOL && LLMI_POSIX
typedef struct core_seen { int others, faults, interrupt; } core_seen;

/* what the threads of a context do with signals; the caller waits for another one to come */
static void core_signals_task(void *argument, size_t index, int thread) {
    core_seen *seen = (core_seen *)argument;
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    const struct timespec moment = {0, 1000000};
    sigset_t blocked;
    int i;
    if (thread == 0) {
        for (i = 0; i < 100 && !__atomic_load_n(&seen->others, __ATOMIC_SEQ_CST); i++)
            nanosleep(&moment, NULL);
    } else if (pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0) {
        for (i = 0; i < 4; i++)
            __atomic_add_fetch(&seen->faults, sigismember(&blocked, faults[i]), __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&seen->interrupt, !sigismember(&blocked, SIGINT), __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&seen->others, 1, __ATOMIC_SEQ_CST);
    }
    (void)index;
}
#endif

/* Interrupts go to the program's own threads; a fault must reach the program's handler. */
TEST(core_threads_and_signals) {
#if LLMI_POOL && LLMI_POSIX
    llm_context *context = llm_context_create(3, NULL, NULL);
    core_seen seen = {0, 0, 0};
    int i;
    for (i = 0; i < 20 && !seen.others; i++) llmi_parallel(context, 8, core_signals_task, &seen);
    CHECK_MSG(seen.others > 0, "no other thread came");
    CHECK_MSG(seen.faults == 0 && seen.interrupt == 0, "%d faults blocked, interrupts taken by %d",
              seen.faults, seen.interrupt);
    llm_context_free(context);
#else
    SKIP("there are no threads of our own");
#endif
}

/* A child process has none of its parent's threads, and may free what it has inherited. */
TEST(core_context_in_a_child) {
#if LLMI_POOL && LLMI_POSIX
    float x[64 * 33], y[64 * 33], w[33 * 33];
    int i, round;
    for (i = 0; i < 64 * 33; i++) x[i] = 1.0f;
    for (i = 0; i < 33 * 33; i++) w[i] = 1.0f;
    for (round = 0; round < 8; round++) {
        llm_context *context = llm_context_create(4, NULL, NULL);
        const struct timespec moment = {0, round % 2 * 2000000};   /* the threads spin, or sleep */
        int status = 0;
        pid_t child;
        CHECK(llm_linear_forward(context, y, x, w, NULL, 64, 33, 33) == LLM_OK);
        nanosleep(&moment, NULL);
        fflush(stdout);
        child = fork();
        if (child == 0) {
            alarm(20);
            llm_context_free(context);
            _exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x",
                  (unsigned)status);
        CHECK(llm_linear_forward(context, y, x, w, NULL, 64, 33, 33) == LLM_OK);
        llm_context_free(context);
    }
#else
    SKIP("there are no threads of our own");
#endif
}

TEST(core_context_allocator) {
    llm_context *context = NULL;
    llm_allocator allocator;
    float x[64 * 33], y[64 * 33], w[33 * 33];
    llm_error err;
    heap h;
    int i;
    heap_init(&h);
    allocator = h.allocator;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, context, llm_context_create(2, &allocator, &err));
    memset(&allocator, 0, sizeof allocator);       /* the struct was copied */
    for (i = 0; i < 64 * 33; i++) x[i] = 1.0f;
    for (i = 0; i < 33 * 33; i++) w[i] = 1.0f;
    CHECK(llm_linear_forward(context, y, x, w, NULL, 64, 33, 33) == LLM_OK &&
          y[64 * 33 - 1] == 33.0f);
    llm_context_free(context);
    CHECK_MSG(h.live == 0 && h.wrong == 0, "%ld left behind, %d wrong", h.live, h.wrong);
}

typedef struct visits { unsigned char count[1000]; int n_threads, bad_thread; } visits;
static void visit(void *argument, size_t index, int thread) {
    visits *v = (visits *)argument;
    v->count[index]++;
    if (thread < 0 || thread >= v->n_threads) v->bad_thread = 1;
}
TEST(core_parallel) {
    static const size_t sizes[] = {0, 1, 2, 3, 16, 999, 1000};
    static const int threads[] = {1, 2, 3, 8};
    int s, t;
    for (t = 0; t < 4; t++) {
        llm_context *context = context_at(0, threads[t]);
        for (s = 0; s < 7; s++) {
            visits v;
            size_t i;
            memset(&v, 0, sizeof v);
            v.n_threads = threads[t];
            llmi_parallel(context, sizes[s], visit, &v);
            for (i = 0; i < 1000; i++)
                CHECK_MSG(v.count[i] == (i < sizes[s]), "task %lu of %lu ran %d times",
                          (unsigned long)i, (unsigned long)sizes[s], (int)v.count[i]);
            CHECK(!v.bad_thread);
        }
        llm_context_free(context);
    }
}

/* a cap is kept by contexts, models and what is made of them */
TEST(core_isa) {
    const llm_config c = small_config(30, 8, 8, 1, 2);
    llm_train_desc train = train_desc(1, 8, 1);
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_model_desc d;
    llm_error err;
    int i, tables = 0;
    while (kernels_at(tables)) tables++;
    CHECK((int)llm_context_isa(NULL) == tables && (int)llm_context_isa(context) == tables);
    CHECK(llm_isa_name(LLM_ISA_BEST) == NULL && llm_isa_name((llm_isa)99) == NULL);
    CHECK(llm_model_isa(NULL) == LLM_ISA_BEST);
    memset(&d, 0, sizeof d);
    for (i = 0; i <= (int)LLM_ISA_AMX; i++) {
        const int runs = i == 0 || i > tables ? tables : i;
        llm_model *model;
        llm_session *session;
        llm_trainer *trainer;
        CHECK(llm_context_set_isa(context, (llm_isa)i, &err) == LLM_OK);
        CHECK((int)llm_context_isa(context) == runs && context->kernels == kernels_at(runs - 1));
        CHECK(strcmp(llm_isa_name((llm_isa)runs), context->kernels->name) == 0);
        d.isa = (llm_isa)i;
        model = llm_model_create(&c, &d, &err);
        CHECK((int)llm_model_isa(model) == runs);
        session = llm_session_create(model, NULL, &err);
        CHECK(session && session->context->kernels == kernels_at(runs - 1));
        llm_session_free(session);
        trainer = llm_trainer_create(model, &train, &err);
        CHECK(trainer && trainer->context->kernels == kernels_at(runs - 1));
        llm_trainer_free(trainer);
        llm_model_free(model);
    }
    REFUSED(LLM_ERR_ARGUMENT, llm_context_set_isa(context, (llm_isa)7, &err), "isa 7", "[0, 6]");
    REFUSED(LLM_ERR_ARGUMENT, llm_context_set_isa(NULL, LLM_ISA_BASE, &err), "NULL");
    d.isa = (llm_isa)-1;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_create(&c, &d, &err), "isa -1", "[0, 6]");
    llm_context_free(context);
}

static void run_core(void) {
    RUN(core_random_published);
    RUN(core_random_addresses);
    RUN(core_random_uniform);
    RUN(core_random_normal);
    RUN(core_sizes_saturate);
    RUN(core_alloc_aligns_and_balances);
    RUN(core_alloc_fails);
    RUN(core_grow);
    RUN(core_carve);
    RUN(core_fail);
    RUN(core_kernel_tables);
    RUN(core_version);
    RUN(core_allocator_without_functions);
    RUN(core_context_threads);
    RUN(core_threads_and_signals);
    RUN(core_context_in_a_child);
    RUN(core_context_allocator);
    RUN(core_parallel);
    RUN(core_isa);
}
