/* bench.c -- how fast llm.h is here, against what this machine can do.
 *
 *     cc -O2 tools/bench.c -lm -o build/bench
 *     build/bench                      all tables, about ten minutes on two cores
 *     build/bench --quick              fewer sizes and repetitions, about three minutes
 *     build/bench --only NAME,NAME     some of them: build/bench --help names them
 *     build/bench --large              the 10.7 billion parameters of deepseek-10b in Q4_K: made,
 *                                      decoded with, saved, loaded; 8 GB of memory, two minutes
 *     build/bench --threads N          default: all cores
 * and, for tools/compare_torch.py, one figure in seconds per line:
 *     build/bench --step B T | --prefill N | --decode PROMPT N | --gemm ROWS
 *                 [--model NAME] [--precision f32|bf16|fp8] [--recompute] [--reps R | --serve]
 * --step also prints what llm_train_memory plans, in bytes, by part; at the end comes peak memory.
 * --serve reads lines with a number of repetitions from stdin, runs as many, and ends with the
 * input. --model: a preset, or one of the two DeepSeek-V3 below, named 68m and moe-162m.
 *
 * What names no other model is GPT-2 124M, and what names no other precision f32. Each table runs
 * in a process of its own, so that peak memory is its own; "peak" and "bandwidth" come first and
 * are what percentages refer to. FLOPs are those of the mathematics: 2 m n k a product, causal
 * attention half a square, backward twice the forward.
 */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

static int quick, n_threads, recompute, reps, serving;
static llm_precision precision;
static const char *const precisions[] = {"f32", "bf16", "fp8"};

typedef struct machine { /* filled in by the first tables; shared between the processes */
    double flops[2], vector[2];        /* per second, of 1 and of n_threads threads; vector: */
    double bytes[2];                   /* without matrix units (AMX)                         */
    int streams;                       /* with which bytes[1] was read                       */
} machine;
static machine *peak;

/* ---- small tools ----------------------------------------------------------------------------- */
static float *floats(size_t n) {
    float *x = (float *)llmi_alloc(NULL, n * sizeof(float), "bench", NULL);
    size_t i;
    NEED(x, "out of memory");
    for (i = 0; i < n; i++) x[i] = (float)((i * 2654435761u >> 7) % 2001) * 1e-4f - 0.1f;
    return x;
}
static llm_context *new_context(int threads) {
    llm_context *context = llm_context_create(threads, NULL, &error);
    TRY(context);
    return context;
}
/* a preset, or a DeepSeek-V3 with a head of its own: 68m is dense; moe-162m has 16 experts a layer,
 * 2 of them and one that is shared active */
static void named_config(llm_config *c, const char *name) {
    const int moe = !strcmp(name, "moe-162m");
    memset(c, 0, sizeof *c);
    if (!moe && strcmp(name, "68m")) {
        TRY(!llm_config_preset(c, name, &error));
        return;
    }
    c->arch = LLM_ARCH_DEEPSEEK_V3;
    c->vocab_size = 50257;
    c->max_seq_len = 1024;
    c->d_model = 512;
    c->n_layers = moe ? 12 : 6;
    c->n_heads = 8;
    c->d_ffn = 1408;
    c->q_lora_rank = 192;
    c->kv_lora_rank = c->qk_nope_head_dim = c->v_head_dim = 64;
    c->qk_rope_head_dim = 32;
    if (!moe) return;
    c->n_routed_experts = 16;
    c->num_experts_per_tok = 2;
    c->n_shared_experts = c->first_k_dense = c->norm_topk_prob = 1;
    c->moe_d_ffn = 352;
}
/* parameters that a token is multiplied with, nearly: norms and biases count, tables in which a row
 * is looked up do not */
static double multiplied(const llm_config *c) {
    const double C = c->d_model;
    return (double)llm_config_active_param_count(c) -
           (c->arch == LLM_ARCH_GPT2 ? c->max_seq_len * C : 0.0) -
           (c->tie_embeddings ? 0.0 : c->vocab_size * C);
}

/* of one layer's attention, forward: scores and values of all pairs of positions */
static double attention_flops(const llm_config *c, double B, double T) {
    const double both = c->arch == LLM_ARCH_GPT2 ? 2.0 * c->d_model / c->n_heads
                        : (double)(c->qk_nope_head_dim + c->qk_rope_head_dim + c->v_head_dim);
    return 2.0 * c->n_heads * both * B * T * (T + 1.0) / 2.0;
}

typedef struct timing { double best, median; } timing;

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static timing timing_of(double *seconds, int n) {
    timing t;
    qsort(seconds, (size_t)n, sizeof *seconds, compare_doubles);
    t.best = seconds[0];
    t.median = seconds[n / 2];
    return t;
}
/* one run to warm up, then for about `budget` seconds, at least `least` times */
static timing measure(void (*run)(void *), void *argument, double budget, int least) {
    double seconds[200];
    const double start = cli_seconds();
    int n = 0;
    run(argument);
    while (n < 200 && (n < least || cli_seconds() - start < budget)) {
        const double t = cli_seconds();
        run(argument);
        seconds[n++] = cli_seconds() - t;
    }
    return timing_of(seconds, n);
}
static double percent(double x, double of) { return of > 0.0 ? 100.0 * x / of : 0.0; }
/* GFLOP/s and their share of the peak; in brackets that of the vector units' where it is another */
static void print_rate(double flops, int threads) {
    const int many = threads > 1;
    printf(" %8.1f %5.0f %%", flops / 1e9, percent(flops, peak->flops[many]));
    if (peak->vector[many] != peak->flops[many])
        printf(" (%3.0f %%)", percent(flops, peak->vector[many]));
}

/* peak memory in bytes */
static double resident(const struct rusage *usage) {
#ifdef __APPLE__
    return (double)usage->ru_maxrss;
#else
    return (double)usage->ru_maxrss * 1024.0;
#endif
}
/* in a process of its own -> its peak memory in bytes */
static double in_child(void (*table)(void)) {
    struct rusage usage;
    int status = 0;
    pid_t pid;
    fflush(stdout);
    pid = fork();
    NEED(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        table();
        fflush(stdout);
        _exit(0);
    }
    NEED(wait4(pid, &status, 0, &usage) >= 0 && WIFEXITED(status) && !WEXITSTATUS(status),
         "a table: failed");
    return resident(&usage);
}

/* ---- peak: multiply and add in registers ----------------------------------------------------- */
/* Ten sums that do not wait for each other, n times sum = sum x + y. madd: that of a, x and y; add:
 * that of a and b; first: the first float of a. */
#define PEAK_LOOP(name, vector, set, madd, add, first)                          \
    static float name(long n) {                                                 \
        volatile float start = 1.0f;                                            \
        const vector x = set(0.999f * start), y = set(0.001f * start);          \
        vector sums[10], a;                                                     \
        int i;                                                                  \
        for (i = 0; i < 10; i++) sums[i] = set(start);                          \
        while (n--) {                                                           \
            ONE(0, madd) ONE(1, madd) ONE(2, madd) ONE(3, madd) ONE(4, madd)    \
            ONE(5, madd) ONE(6, madd) ONE(7, madd) ONE(8, madd) ONE(9, madd)    \
        }                                                                       \
        for (a = sums[0], i = 1; i < 10; i++) {                                 \
            const vector b = sums[i];                                           \
            a = add;                                                            \
        }                                                                       \
        return first;                                                           \
    }
#define ONE(i, madd) a = sums[i]; sums[i] = madd;

PEAK_LOOP(loop_scalar, float, (float), a * x + y, a + b, a)
#if LLMI_X86
PEAK_LOOP(loop_sse2, __m128, _mm_set1_ps, _mm_add_ps(_mm_mul_ps(a, x), y), _mm_add_ps(a, b),
          _mm_cvtss_f32(a))
__attribute__((target("avx2,fma")))
PEAK_LOOP(loop_avx2, __m256, _mm256_set1_ps, _mm256_fmadd_ps(a, x, y), _mm256_add_ps(a, b),
          _mm_cvtss_f32(_mm256_castps256_ps128(a)))
__attribute__((target("avx512f")))
PEAK_LOOP(loop_avx512, __m512, _mm512_set1_ps, _mm512_fmadd_ps(a, x, y), _mm512_add_ps(a, b),
          _mm_cvtss_f32(_mm512_castps512_ps128(a)))
#endif
#if LLMI_AMX
/* tile products of bf16; six of them make one of f32 */
__attribute__((target("amx-tile,amx-bf16"))) static float loop_amx(long n) {
    static const struct {
        unsigned char palette, start, zero[14];
        unsigned short bytes[16];
        unsigned char rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
    while (n--) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 0.0f;
}
#endif
#if LLMI_NEON
PEAK_LOOP(loop_neon, float32x4_t, vdupq_n_f32, vfmaq_f32(y, a, x), vaddq_f32(a, b),
          vgetq_lane_f32(a, 0))
#endif

typedef float peak_loop(long n);
static const struct {
    const char *name;
    peak_loop *loop;
    double flops;
} loops[] = {
    /* flops of one turn */
    {"scalar", loop_scalar, 20.0},
#if LLMI_X86
    {"sse2", loop_sse2, 80.0},
    {"avx2", loop_avx2, 160.0},
    {"avx512", loop_avx512, 320.0},
#endif
#if LLMI_AMX
    {"amx", loop_amx, 4.0 * 2.0 * 16.0 * 16.0 * 32.0 / 6.0},
#endif
#if LLMI_NEON
    {"neon", loop_neon, 80.0},
#endif
};

typedef struct peak_job { peak_loop *loop; long n; int threads; } peak_job;

/* a task for each of so many threads; every one takes its own at the same time as the others */
static void each_thread(int threads, llmi_task *task, void *argument) {
    static llm_context *context;
    if (!context || context->n_threads != threads) {
        llm_context_free(context);
        context = new_context(threads);
    }
    llmi_parallel(context, (size_t)threads, task, argument);
}

static void loop_task(void *argument, size_t index, int thread) {
    const peak_job *job = (const peak_job *)argument;
    volatile float sink = 0.0f;
    const float x = job->loop(job->n);
    (void)index; (void)thread;
    if (x == 12345.0f) sink = x;
    (void)sink;
}
static void run_loop(void *argument) {
    each_thread(((const peak_job *)argument)->threads, loop_task, argument);
}

typedef struct tile_job {
    const llmi_tiles *tiles;
    float *a, *b, *c;
    size_t k;
    int turns;
} tile_job;

static void run_tile(void *argument) {
    const tile_job *job = (const tile_job *)argument;
    int i;
    for (i = 0; i < job->turns; i++)
        job->tiles->block(job->tiles->mr, job->tiles->nr, job->k, job->a, job->b, job->c,
                          job->tiles->nr, NULL, 1);
}

static void table_peak(void) {
    const int last = llmi_last_pass();
    int k, l;
    printf("\n== peak: multiply and add, GFLOP/s%28s\n", "gemm's tile on data in L1");
    printf("   %-8s %11s %4d threads %17s\n", "", "1 thread", n_threads, "1 thread");
    for (k = 0; k <= last; k++)
        for (l = 0; l < (int)(sizeof loops / sizeof loops[0]); l++) {
            const llmi_kernels *kernels = llmi_kernels_of(k);
            double rate[2];
            int threads;
            tile_job tile;
            timing t;
            if (strcmp(loops[l].name, kernels->name)) continue;
            for (threads = 0; threads < 2; threads++) {
                peak_job job;
                job.loop = loops[l].loop;
                job.n = loops[l].flops > 4000.0 ? 400000 : 4000000;
                job.threads = threads ? n_threads : 1;
                t = measure(run_loop, &job, quick ? 0.3 : 1.0, 5);
                rate[threads] = (double)job.n * loops[l].flops * (double)job.threads / t.best;
                peak->flops[threads] = rate[threads];       /* the last table is the one in use */
                if (strcmp(kernels->name, "amx")) peak->vector[threads] = rate[threads];
            }
            tile.tiles = &kernels->tiles[LLM_PRECISION_FP32];
            tile.k = 128;
            tile.turns = 2000;
            tile.a = floats(64 * 1024);
            tile.b = floats(64 * 1024);
            tile.c = floats(64 * 1024);
            memset(tile.a, 0, 64 * 1024 * sizeof(float));
            memset(tile.b, 0, 64 * 1024 * sizeof(float));
            t = measure(run_tile, &tile, quick ? 0.1 : 0.3, 5);
            {
                const double flops =
                    2.0 * (double)(tile.tiles->mr * tile.tiles->nr * tile.k * (size_t)tile.turns) /
                    t.best;
                printf("   %-8s %11.1f %12.1f %13.1f  %3.0f %%\n", kernels->name, rate[0] / 1e9,
                       rate[1] / 1e9, flops / 1e9, percent(flops, rate[0]));
            }
            llmi_release(NULL, tile.a);
            llmi_release(NULL, tile.b);
            llmi_release(NULL, tile.c);
        }
    printf("   percentages below refer to the last line\n");
}

/* ---- bandwidth: a sum over a buffer, in several streams side by side ------------------------- */
typedef struct read_job { const float *x; size_t n; int streams, threads; } read_job;
#define MOST_STREAMS 8

#if LLMI_X86
__attribute__((target("avx2")))
#endif
static float read_part(const float *x, size_t n, int streams) {
    const size_t each = n / (size_t)streams / 32 * 32;
    size_t i;
    int s;
#if LLMI_X86
    __m256 sum[4];
    for (s = 0; s < 4; s++) sum[s] = _mm256_setzero_ps();
    for (i = 0; i < each; i += 32)
        for (s = 0; s < streams; s++) {
            const float *p = x + (size_t)s * each + i;
            sum[0] = _mm256_add_ps(sum[0], _mm256_loadu_ps(p));
            sum[1] = _mm256_add_ps(sum[1], _mm256_loadu_ps(p + 8));
            sum[2] = _mm256_add_ps(sum[2], _mm256_loadu_ps(p + 16));
            sum[3] = _mm256_add_ps(sum[3], _mm256_loadu_ps(p + 24));
        }
    sum[0] = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    return _mm_cvtss_f32(_mm256_castps256_ps128(sum[0]));
#else
    float sum[32];
    int l;
    for (l = 0; l < 32; l++) sum[l] = 0.0f;
    for (i = 0; i < each; i += 32)
        for (s = 0; s < streams; s++)
            for (l = 0; l < 32; l++) sum[l] += x[(size_t)s * each + i + (size_t)l];
    return sum[0] + sum[31];
#endif
}
static void read_task(void *argument, size_t index, int thread) {
    const read_job *job = (const read_job *)argument;
    const size_t part = job->n / (size_t)job->threads;
    const float x = read_part(job->x + part * index, part, job->streams);
    volatile float sink = 0.0f;
    (void)thread;
    if (x == 12345.0f) sink = x;
    (void)sink;
}
static void run_read(void *argument) {
    each_thread(((const read_job *)argument)->threads, read_task, argument);
}
static void table_bandwidth(void) {
    const size_t n = (size_t)1 << 27;              /* 512 MiB: as much as GPT-2 124M has weights */
    read_job job;
    int threads;
    job.x = floats(n);
    job.n = n;
    printf("\n== bandwidth: reading %d MiB, GB/s\n   %-9s %9s %9s %9s %9s\n", (int)(n >> 18),
           "streams", "1", "2", "4", "8");
    for (threads = 0; threads < 2; threads++) {
        job.threads = threads ? n_threads : 1;
        printf("   %d thread%s ", job.threads, job.threads > 1 ? "s" : " ");
        for (job.streams = 1; job.streams <= MOST_STREAMS; job.streams *= 2) {
            const timing t = measure(run_read, &job, quick ? 0.5 : 1.5, 5);
            const double rate = (double)n * sizeof(float) / t.best;
            if (rate > peak->bytes[threads]) {
                peak->bytes[threads] = rate;
                peak->streams = job.streams;
            }
            printf(" %9.1f", rate / 1e9);
        }
        printf("\n");
    }
    printf("   percentages below refer to the best of each line\n");
}

/* ---- gemm: the model's products -------------------------------------------------------------- */
typedef struct product {
    const char *name;
    int n_in, n_out, transposed, count;            /* count: per forward                      */
    int rows, which; /* which: 0 y = x W, 1 dx = dy W', 2 dW = x' dy */
    llm_context *context;
    float *x, *y, *w;
} product;

static const product products[] = {
    {"attn.c_attn", 768, 2304, 1, 12, 0, 0, NULL, NULL, NULL, NULL},
    {"attn.c_proj", 768, 768, 1, 12, 0, 0, NULL, NULL, NULL, NULL},
    {"mlp.c_fc", 768, 3072, 1, 12, 0, 0, NULL, NULL, NULL, NULL},
    {"mlp.c_proj", 3072, 768, 1, 12, 0, 0, NULL, NULL, NULL, NULL},
    {"head", 768, 50257, 0, 1, 0, 0, NULL, NULL, NULL, NULL},
};
#define N_PRODUCTS 5

static void run_product(void *argument) {
    const product *p = (const product *)argument;
    const llmi_matrix w = llmi_matrix_of(p->w, (size_t)p->n_out, (size_t)p->n_in, p->transposed);
    /* the head goes in chunks of rows, whose logits lie padded */
    const size_t chunk =
        p->transposed ? (size_t)p->rows : llmi_min((size_t)p->rows, LLMI_LOSS_ROWS);
    const size_t ld = p->transposed ? (size_t)p->n_out : llmi_round_up((size_t)p->n_out, 16);
    size_t row;
    for (row = 0; row < (size_t)p->rows; row += chunk) {
        float *x = p->x + row * (size_t)p->n_in;
        const size_t rows = llmi_min(chunk, (size_t)p->rows - row);
        if (p->which == 0) llmi_matmul(p->context, p->y, ld, x, w, NULL, rows, 0);
        else if (p->which == 1) llmi_matmul_dx(p->context, x, p->y, ld, w, rows, 0);
        else llmi_matmul_dw(p->context, p->w, p->y, ld, x, w, rows, row > 0);
    }
}
static double product_flops(const product *p) { return 2.0 * p->rows * p->n_in * p->n_out; }

/* seconds of all products of a step; seconds of the three kinds and of the head's in part[4]
 * unless NULL */
static double all_products(int rows, int threads, double budget, int print, double *part) {
    static const char *const kinds[3] = {"y = x W", "dx = dy W'", "dW = x' dy"};
    llm_context *context = new_context(threads);
    double flops = 0.0, seconds = 0.0;
    int i, which;
    for (i = 0; part && i < 4; i++) part[i] = 0.0;
    for (which = 0; which < 3; which++)
        for (i = 0; i < N_PRODUCTS; i++) {
            product p = products[i];
            timing t;
            p.rows = rows;
            p.which = which;
            p.context = context;
            p.x = floats((size_t)rows * (size_t)p.n_in);
            p.y = floats((size_t)rows * llmi_round_up((size_t)p.n_out, 16));
            p.w = floats((size_t)p.n_in * (size_t)p.n_out);
            t = measure(run_product, &p, budget, 2);
            flops += p.count * product_flops(&p);
            seconds += p.count * t.best;
            if (part) part[p.transposed ? which : 3] += p.count * t.best;
            if (print) {
                printf("   %-11s %-11s %4d x %5d x %5d %9.2f", p.name, kinds[which], rows, p.n_out,
                       p.n_in, t.best * 1e3);
                print_rate(product_flops(&p) / t.best, threads);
                printf("\n");
            }
            llmi_release(NULL, p.x);
            llmi_release(NULL, p.y);
            llmi_release(NULL, p.w);
        }
    llm_context_free(context);
    if (print) {
        printf("   %-42s %9.2f", "all of a step, weighted by FLOPs", seconds * 1e3);
        print_rate(flops / seconds, threads);
        printf("\n");
    }
    return seconds;
}
static void table_gemm(void) {
    static const int rows[2] = {1024, 256};
    int r, threads;
    for (r = 0; r < 2; r++)
        for (threads = 0; threads < 2; threads++) {
            if (threads && n_threads == 1) continue;
            if (quick && (r || !threads) && n_threads > 1) continue;
            printf("\n== gemm, %d rows, %d thread%s%25s %8s %6s\n", rows[r],
                   threads ? n_threads : 1, threads ? "s" : "", "ms", "GFLOP/s", "peak");
            all_products(rows[r], threads ? n_threads : 1, quick ? 0.1 : 0.4, 1, NULL);
        }
}

/* ---- attention ------------------------------------------------------------------------------- */
typedef struct attention {
    llm_context *context;
    llm_attention_dims dims;
    float *qkv, *dqkv, *out, *dout, *lse;
} attention;

static void new_attention(attention *a, llm_context *context, int B, int T) {
    const size_t n = (size_t)B * (size_t)T, C = 768;
    memset(a, 0, sizeof *a);
    a->context = context;
    a->dims.B = B;
    a->dims.T = T;
    a->dims.n_heads = 12;
    a->dims.qk_head_dim = 64;
    a->dims.q_stride = a->dims.k_stride = a->dims.v_stride = 3 * C;
    a->qkv = floats(n * 3 * C);
    a->dqkv = floats(n * 3 * C);
    a->out = floats(n * C);
    a->dout = floats(n * C);
    a->lse = floats(n * 12);
}
static void free_attention(attention *a) {
    llmi_release(NULL, a->qkv);
    llmi_release(NULL, a->dqkv);
    llmi_release(NULL, a->out);
    llmi_release(NULL, a->dout);
    llmi_release(NULL, a->lse);
}
static void run_attention_forward(void *argument) {
    attention *a = (attention *)argument;
    llm_attention_forward(a->context, a->out, a->lse, a->qkv, a->qkv + 768, a->qkv + 1536, &a->dims,
                          NULL);
}
static void run_attention_backward(void *argument) {
    attention *a = (attention *)argument;
    llm_attention_backward(a->context, a->dqkv, a->dqkv + 768, a->dqkv + 1536, a->dout, a->out,
                           a->lse, a->qkv, a->qkv + 768, a->qkv + 1536, &a->dims, NULL);
}

static void table_attention(void) {
    static const int sizes[4][2] = {{4, 64}, {4, 256}, {1, 1024}, {16, 256}};
    int i;
    llm_context *context = new_context(n_threads);
    llm_config config;
    named_config(&config, "gpt2");
    printf("\n== attention, 12 heads of 64, one layer, %d threads\n   %10s %11s %9s %6s %12s %9s "
           "%6s\n",
           n_threads, "B x T", "forward ms", "GFLOP/s", "peak", "backward ms", "GFLOP/s", "peak");
    for (i = 0; i < (quick ? 3 : 4); i++) {
        const int B = sizes[i][0], T = sizes[i][1];
        const double flops = attention_flops(&config, B, T);
        attention a;
        timing forward, backward;
        new_attention(&a, context, B, T);
        forward = measure(run_attention_forward, &a, quick ? 0.1 : 0.5, 3);
        backward = measure(run_attention_backward, &a, quick ? 0.1 : 0.5, 3);
        printf("   %3d x %4d %11.2f %9.1f %4.0f %% %12.2f %9.1f %4.0f %%\n", B, T,
               forward.best * 1e3, flops / forward.best / 1e9,
               percent(flops / forward.best, peak->flops[1]), backward.best * 1e3,
               2.0 * flops / backward.best / 1e9,
               percent(2.0 * flops / backward.best, peak->flops[1]));
        free_attention(&a);
    }
    llm_context_free(context);
}

/* ---- the other ops --------------------------------------------------------------------------- */
enum {
    OP_NORM,
    OP_NORM_BACK,
    OP_GELU,
    OP_GELU_BACK,
    OP_ADD,
    OP_BIAS_BACK,
    OP_EMBED,
    OP_EMBED_BACK,
    OP_LOSS,
    OP_NORM_OF,
    OP_ADAMW,
    N_OPS
};
static const struct {
    const char *name;
    double bytes;
} ops[N_OPS] = {/* bytes moved per value */
                {"layernorm", 8.0},      {"layernorm backward", 16.0},
                {"gelu", 8.0},           {"gelu backward", 16.0},
                {"residual add", 12.0},  {"bias backward", 4.0},
                {"embedding", 12.0},     {"embedding backward", 12.0},
                {"cross entropy", 12.0}, {"gradient's norm", 4.0},
                {"AdamW", 28.0}};

typedef struct op_job {
    llm_context *context;
    int which, rows;
    float *x, *y, *z, *w, *small;
    int32_t *tokens;
    size_t n;
} op_job;

static void run_op(void *argument) {
    const op_job *j = (const op_job *)argument;
    const int rows = j->rows, C = 768;
    const size_t n = j->n;
    switch (j->which) {
    case OP_NORM:
        llm_layernorm_forward(j->context, j->y, j->small, j->small + rows, j->x, j->w, j->w + C,
                              rows, C, 1e-5f);
        break;
    case OP_NORM_BACK:
        llm_layernorm_backward(j->context, j->y, j->w + 2 * C, j->w + 3 * C, j->x, j->small,
                               j->small + rows, j->z, j->w, rows, C);
        break;
    case OP_GELU: llm_gelu_forward(j->context, j->y, j->x, n); break;
    case OP_GELU_BACK: llm_gelu_backward(j->context, j->y, j->x, j->z, n); break;
    case OP_ADD: llmi_residual(j->context, j->y, j->x, j->z, n, 0.0f, 0); break;
    case OP_BIAS_BACK:
        llmi_add_column_sums(j->context, j->w, j->x, (size_t)rows, 9 * (size_t)C);
        break;
    case OP_EMBED:
        llm_embedding_forward(j->context, j->y, j->tokens, j->w, rows, 50257, C, NULL);
        break;
    case OP_EMBED_BACK:
        llm_embedding_backward(j->context, j->w, j->y, j->tokens, rows, 50257, C, NULL);
        break;
    case OP_LOSS: {
        llmi_cross_entropy c;
        memset(&c, 0, sizeof c);
        c.context = j->context;
        c.logits = j->x;
        c.dlogits = j->y;
        c.targets = j->tokens;
        c.rows = (size_t)rows;
        c.vocab = c.ld = 50257;
        c.losses = j->small;
        llmi_for(j->context, c.rows, LLMI_ROWS, llmi_cross_entropy_body, &c);
        break;
    }
    case OP_NORM_OF: j->small[0] = (float)llmi_square_sum(j->context, j->x, n); break;
    default: {
        static const llm_adamw adamw = {9, 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f};
        llm_adamw_update(j->context, j->w, j->y, j->z, j->x, n, &adamw);
        break;
    }
    }
}
/* best seconds of one call; the number of values it goes over in *values */
static double time_op(int which, int rows, llm_context *context, double budget, double *values) {
    const size_t N = (size_t)rows, C = 768, V = 50257;
    op_job j;
    timing t;
    size_t i;
    j.context = context;
    j.which = which;
    j.rows = rows;
    j.n = which == OP_GELU || which == OP_GELU_BACK ? N * 4 * C
          : which == OP_BIAS_BACK                   ? N * 9 * C
          : which == OP_LOSS                        ? N * V
          : which == OP_NORM_OF || which == OP_ADAMW ? 124439808
                                                    : N * C;
    j.x = floats(j.n);
    j.y = floats(j.n);
    j.z = floats(which == OP_LOSS ? 1 : j.n);
    j.w = floats(which == OP_ADAMW ? j.n : V * C);
    j.small = floats(2 * N);
    j.tokens = (int32_t *)(void *)floats(N);
    for (i = 0; i < N; i++) j.tokens[i] = (int32_t)(llm_random(1, i) % V);
    for (i = 0; which == OP_ADAMW && i < j.n; i++) j.z[i] = fabsf(j.z[i]);
    for (i = 0; which == OP_NORM_BACK && i < N; i++) j.small[N + i] = 1.0f;
    t = measure(run_op, &j, budget, 3);
    *values = (double)j.n;
    llmi_release(NULL, j.x);
    llmi_release(NULL, j.y);
    llmi_release(NULL, j.z);
    llmi_release(NULL, j.w);
    llmi_release(NULL, j.small);
    llmi_release(NULL, j.tokens);
    return t.best;
}
static void table_ops(void) {
    llm_context *one = new_context(1), *all = new_context(n_threads);
    int i;
    printf("\n== other ops, 1024 rows (AdamW and norm: 124 million values)\n   %-20s %11s %14s %8s "
           "%14s\n",
           "", "1 thread ms", "ns a value", "GB/s", "all threads ms");
    for (i = 0; i < N_OPS; i++) {
        const int rows = i == OP_LOSS ? 256 : 1024;
        double n;
        const double t1 = time_op(i, rows, one, quick ? 0.1 : 0.3, &n),
                     tn = time_op(i, rows, all, quick ? 0.1 : 0.3, &n);
        printf("   %-20s %11.3f %14.3f %8.1f %14.3f %8.1f GB/s\n", ops[i].name, t1 * 1e3,
               t1 / n * 1e9, ops[i].bytes * n / t1 / 1e9, tn * 1e3, ops[i].bytes * n / tn / 1e9);
    }
    llm_context_free(one);
    llm_context_free(all);
}

/* ---- the training step ----------------------------------------------------------------------- */
typedef struct training {
    llm_model *model;
    llm_trainer *trainer;
    int32_t *tokens;
    double forward, backward, update;  /* seconds of the last step */
} training;

static llm_train_desc train_desc(int B, int T) {
    const llm_train_desc d = {.batch_size = B, .seq_len = T, .schedule = LLM_SCHEDULE_CONSTANT,
                              .n_threads = n_threads, .precision = precision,
                              .recompute = recompute};
    return d;
}
static llm_memory planned(const llm_config *config, int B, int T) {
    const llm_train_desc d = train_desc(B, T);
    llm_memory memory;
    TRY(!llm_train_memory(config, &d, &memory, &error));
    return memory;
}
static double planned_bytes(const llm_config *config, int B, int T) {
    return (double)planned(config, B, T).total;
}
static void new_training(training *t, const llm_config *config, int B, int T) {
    const llm_train_desc d = train_desc(B, T);
    llm_model_desc md;
    size_t i, n = (size_t)B * (size_t)T;
    memset(t, 0, sizeof *t);
    memset(&md, 0, sizeof md);
    md.n_threads = n_threads;
    t->model = llm_model_create(config, &md, &error);
    TRY(t->model);
    t->trainer = llm_trainer_create(t->model, &d, &error);
    TRY(t->trainer);
    t->tokens = (int32_t *)malloc((n + 1) * sizeof(int32_t));
    NEED(t->tokens, "out of memory");
    for (i = 0; i <= n; i++)
        t->tokens[i] = (int32_t)(llm_random(7, i) % (uint64_t)config->vocab_size);
}
static void free_training(training *t) {
    llm_trainer_free(t->trainer);
    llm_model_free(t->model);
    free(t->tokens);
}
static void run_step(void *argument) {
    training *t = (training *)argument;
    double a = cli_seconds(), b;
    TRY(!llm_trainer_forward(t->trainer, t->tokens, t->tokens + 1, NULL, &error));
    b = cli_seconds();
    t->forward = b - a;
    TRY(!llm_trainer_backward(t->trainer, &error));
    a = cli_seconds();
    t->backward = a - b;
    TRY(!llm_trainer_update(t->trainer, NULL, &error));
    t->update = cli_seconds() - a;
}
/* of forward and backward, per batch; an MTP module, dense, has the head once more */
static double step_flops(const llm_config *c, double B, double T) {
    const double module = c->mtp_depth ? (double)llm_config_mtp_param_count(c) / c->mtp_depth +
                                             (double)c->vocab_size * c->d_model : 0.0;
    double flops = 2.0 * B * T * multiplied(c) + c->n_layers * attention_flops(c, B, T);
    int k;
    for (k = 1; k <= c->mtp_depth; k++)
        flops += 2.0 * B * (T - k) * module + attention_flops(c, B, T - k);
    return 3.0 * flops;
}
static const struct { const char *model; int B, T; llm_precision precision; int recompute; }
    steps[] = {
        {"gpt2", 4, 64, LLM_PRECISION_FP32, 0},
        {"gpt2", 4, 256, LLM_PRECISION_FP32, 0},
        {"gpt2", 4, 256, LLM_PRECISION_BF16, 0},
        {"gpt2", 4, 256, LLM_PRECISION_FP8, 0},
        {"gpt2", 4, 256, LLM_PRECISION_FP32, 1},
        {"gpt2", 1, 1024, LLM_PRECISION_FP32, 0},
        {"68m", 4, 256, LLM_PRECISION_FP32, 0},
        {"68m", 4, 256, LLM_PRECISION_BF16, 0},
        {"moe-162m", 4, 256, LLM_PRECISION_FP32, 0},
        {"moe-162m", 4, 256, LLM_PRECISION_BF16, 0}};
#define N_STEPS ((int)(sizeof steps / sizeof steps[0]))
static int step_index;

static void one_step(void) {
    const int B = steps[step_index].B, T = steps[step_index].T, n = quick ? 3 : 7;
    double seconds[16], forward[16], backward[16], update[16];
    llm_config config;
    training t;
    timing whole;
    int i;
    named_config(&config, steps[step_index].model);
    precision = steps[step_index].precision;
    recompute = steps[step_index].recompute;
    new_training(&t, &config, B, T);
    run_step(&t);
    for (i = 0; i < n; i++) {
        run_step(&t);
        forward[i] = t.forward;
        backward[i] = t.backward;
        update[i] = t.update;
        seconds[i] = t.forward + t.backward + t.update;
    }
    free_training(&t);
    whole = timing_of(seconds, n);
    printf("   %-8s %-4s%-10s %d x %4d %8.3f %8.3f %8.3f %8.3f %8.3f %8.0f %8.1f %4.0f %% %7.0f MB",
           steps[step_index].model, precisions[precision], recompute ? " recompute" : "", B, T,
           whole.best, whole.median, timing_of(forward, n).best, timing_of(backward, n).best,
           timing_of(update, n).best, B * T / whole.best,
           step_flops(&config, B, T) / whole.best / 1e9,
           percent(step_flops(&config, B, T) / whole.best, peak->flops[1]),
           planned_bytes(&config, B, T) / 1e6);
}
/* each line in a process of its own */
static void table_step(void) {
    printf("\n== training step, %d threads: seconds; peak: that of f32\n   %-23s %8s %8s %8s %8s "
           "%8s %8s %8s %8s %6s %10s %9s\n",
           n_threads, "", "B x T", "best", "median", "forward", "backward", "update", "tokens/s",
           "GFLOP/s", "peak", "planned", "in memory");
    for (step_index = 0; step_index < N_STEPS; step_index++)
        if (!quick || steps[step_index].T < 1024) printf("%6.0f MB\n", in_child(one_step) / 1e6);
}

/* ---- where a step's time goes: its parts by themselves --------------------------------------- */
static void share(const char *name, double seconds, double step) {
    printf("   %-34s %9.1f %6.1f %%\n", name, seconds * 1e3, percent(seconds, step));
}
static void table_breakdown(void) {
    const int B = 4, T = quick ? 64 : 256, N = B * T;
    const double budget = quick ? 0.1 : 0.3;
    llm_context *context = new_context(n_threads);
    double step, part[4], op[N_OPS], values, sum, forward, backward;
    llm_config config;
    training t;
    attention a;
    int i;
    named_config(&config, "gpt2");
    new_training(&t, &config, B, T);
    step = measure(run_step, &t, quick ? 1.0 : 5.0, 2).best;
    free_training(&t);
    all_products(N, n_threads, budget, 0, part);
    new_attention(&a, context, B, T);
    forward = 12.0 * measure(run_attention_forward, &a, budget, 3).best;
    backward = 12.0 * measure(run_attention_backward, &a, budget, 3).best;
    free_attention(&a);
    for (i = 0; i < N_OPS; i++)
        op[i] = time_op(i, i == OP_LOSS ? llmi_min(256, (size_t)N) > 255 ? 256 : N : N, context,
                        budget, &values);
    op[OP_NORM] *= 25.0 + 24.0;        /* and again in the backward */
    op[OP_NORM_BACK] *= 25.0;
    op[OP_GELU] *= 12.0;
    op[OP_GELU_BACK] *= 12.0;
    op[OP_ADD] *= 24.0;
    op[OP_BIAS_BACK] *= 12.0;          /* the four of a block have 9 C values */
    op[OP_LOSS] *= N / (N < 256 ? (double)N : 256.0);
    sum = part[0] + part[1] + part[2] + part[3] + forward + backward;
    for (i = 0; i < N_OPS; i++) sum += op[i];
    printf("\n== where a step's time goes, B %d, T %d, %d threads: each part by itself\n   %-34s "
           "%9s %8s\n",
           B, T, n_threads, "", "ms", "of step");
    share("blocks: y = x W", part[0], step);
    share("blocks: dx = dy W'", part[1], step);
    share("blocks: dW = x' dy", part[2], step);
    share("head: its three products", part[3], step);
    share("attention", forward, step);
    share("attention backward", backward, step);
    for (i = 0; i < N_OPS; i++) share(ops[i].name, op[i], step);
    share("the rest: caches colder, clearing", step - sum, step);
    share("whole step", step, step);
    llm_context_free(context);
}

/* ---- inference ------------------------------------------------------------------------------- */
typedef struct inference {
    llm_model *model;
    llm_session *session;
    int32_t *tokens, *written;
    float *logits;
    int prompt, n;
} inference;

/* of f->model, with room for so many tokens */
static void new_session(inference *f, int most_tokens, int prompt, int n) {
    const llm_config *config = llm_model_config(f->model);
    const uint64_t most = (uint64_t)most_tokens;
    llm_session_desc d;
    uint64_t i;
    memset(&d, 0, sizeof d);
    d.max_seq_len = most_tokens;
    f->session = llm_session_create(f->model, &d, &error);
    TRY(f->session);
    f->tokens = (int32_t *)(void *)floats((size_t)most);
    f->written = (int32_t *)(void *)floats((size_t)most);
    f->logits = floats((size_t)config->vocab_size);
    f->prompt = prompt;
    f->n = n;
    for (i = 0; i < most; i++)
        f->tokens[i] = (int32_t)(llm_random(7, i) % (uint64_t)config->vocab_size);
}
static llm_model *new_model(const llm_config *config, llm_dtype type) {
    llm_model_desc md;
    llm_model *model;
    memset(&md, 0, sizeof md);
    md.n_threads = n_threads;
    md.dtype = type;
    model = llm_model_create(config, &md, &error);
    TRY(model);
    return model;
}
static void new_inference(inference *f, const llm_config *config, int prompt, int n) {
    f->model = new_model(config, LLM_F32);
    new_session(f, config->max_seq_len, prompt, n);
}
static void free_inference(inference *f) {
    llm_session_free(f->session);
    llm_model_free(f->model);
    llmi_release(NULL, f->tokens);
    llmi_release(NULL, f->written);
    llmi_release(NULL, f->logits);
}
static void run_prefill(void *argument) {
    inference *f = (inference *)argument;
    TRY(!llm_session_rewind(f->session, 0, 0, &error));
    TRY(!llm_session_eval(f->session, 0, f->tokens, f->prompt, f->logits, &error));
}
/* after the prompt, which is there already */
static void run_decode(void *argument) {
    inference *f = (inference *)argument;
    int i;
    TRY(!llm_session_rewind(f->session, 0, f->prompt, &error));
    for (i = 0; i < f->n; i++)
        TRY(!llm_session_eval(f->session, 0, f->tokens + i, 1, f->logits, &error));
}
/* prompt and all, as a user sees it */
static void run_generate(void *argument) {
    inference *f = (inference *)argument;
    llm_generate_desc d;
    memset(&d, 0, sizeof d);
    d.max_new_tokens = f->n;
    TRY(!llm_session_rewind(f->session, 0, 0, &error));
    TRY(!llm_generate(f->session, f->tokens, f->prompt, &d, f->written, f->n, NULL, &error));
}
static void table_prefill(void) {
    static const int lengths[4] = {512, 17, 64, 1024};
    llm_config config;
    int i;
    named_config(&config, "gpt2");
    printf("\n== prefill, %d threads\n   %6s %9s %10s %9s %6s\n", n_threads, "tokens", "ms",
           "tokens/s", "GFLOP/s", "peak");
    for (i = 0; i < (quick ? 1 : 4); i++) {
        const double n = lengths[i], C = 768.0;
        const double flops = n * 2.0 * 12.0 * 12.0 * C * C + 2.0 * C * 50257.0 +
                             12.0 * attention_flops(&config, 1.0, n);
        inference f;
        timing t;
        new_inference(&f, &config, lengths[i], 0);
        t = measure(run_prefill, &f, quick ? 1.0 : 3.0, 3);
        printf("   %6d %9.1f %10.0f %9.1f %4.0f %%\n", lengths[i], t.best * 1e3, n / t.best,
               flops / t.best / 1e9, percent(flops / t.best, peak->flops[1]));
        free_inference(&f);
    }
}
static double seconds_to(void (*run)(void *), void *argument) {
    const double start = cli_seconds();
    run(argument);
    return cli_seconds() - start;
}
/* Seconds a token, and what share of the bandwidth that is if it reads so many bytes: the medians.
 * How fast memory is read changes from second to second where a machine is shared: it is read just
 * before and just after. */
static double decode_seconds(inference *f, read_job *job, int rounds, double bytes,
                             double *share_of_reading) {
    double before, each[31], share[31];
    int round;
    run_prefill(f);
    run_decode(f);
    before = seconds_to(run_read, job);
    for (round = 0; round < rounds; round++) {
        const double seconds = seconds_to(run_decode, f) / f->n;
        const double after = seconds_to(run_read, job);
        each[round] = seconds;
        share[round] =
            bytes / seconds * (before + after) / 2.0 / ((double)job->n * sizeof(float));
        before = after;
    }
    *share_of_reading = timing_of(share, rounds).median;
    return timing_of(each, rounds).median;
}
static read_job reading(void) {
    read_job job;
    job.n = (size_t)1 << 27;
    job.x = floats(job.n);
    job.streams = peak->streams;
    job.threads = n_threads;
    return job;
}
static void table_decode(void) {
    static const struct { const char *model; int prompt; } cases[] = {
        {"gpt2", 1}, {"gpt2", 256}, {"gpt2", 900},
        {"68m", 64}, {"moe-162m", 64}, {"moe-162m", 900}};
    read_job job = reading();
    int i;
    printf("\n== decode, %d threads; GB/s: the weights that a token meets, and the cache so far; "
           "medians\n"
           "   %-9s %6s %10s %10s %8s %21s\n",
           n_threads, "", "after", "ms/token", "tokens/s", "GB/s", "of reading at the time");
    for (i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        const int n = 16;
        double bytes, seconds, share;
        llm_config config;
        inference f;
        if (quick && cases[i].prompt > 64) continue;
        named_config(&config, cases[i].model);
        bytes = 4.0 * multiplied(&config) + (double)llm_config_cache_bytes(&config, 1, LLM_F32) *
                                                (cases[i].prompt + n / 2.0);
        new_inference(&f, &config, cases[i].prompt, n);
        seconds = decode_seconds(&f, &job, quick ? 5 : 31, bytes, &share);
        printf("   %-9s %6d %10.2f %10.1f %8.1f %19.0f %%\n", cases[i].model, cases[i].prompt,
               seconds * 1e3, 1.0 / seconds, bytes / seconds / 1e9, 100.0 * share);
        free_inference(&f);
    }
}

/* ---- growth: time against one size at a time ------------------------------------------------- */
static void table_scaling(void) {
    static const char *const names[5] = {"T", "B", "layers", "width", "vocabulary"};
    int which, i;
    printf("\n== growth of a step around B 2, T 128, 4 layers, width 256, vocabulary 8192: ms "
           "(GFLOP/s)\n");
    for (which = 0; which < 5; which++) {
        printf("   %-10s", names[which]);
        for (i = 0; i < (quick ? 2 : 4); i++) {
            const int factor = 1 << i;
            llm_config c;
            training t;
            double seconds, flops;
            int B = 2, T = 128, sizes[5];
            memset(&c, 0, sizeof c);
            c.arch = LLM_ARCH_GPT2;
            c.tie_embeddings = 1;
            c.max_seq_len = 1024;
            c.vocab_size = 8192 * (which == 4 ? factor : 1);
            c.d_model = 256 * (which == 3 ? factor : 1);
            c.n_heads = c.d_model / 64;
            c.n_layers = 4 * (which == 2 ? factor : 1);
            T *= which == 0 ? factor : 1;
            B *= which == 1 ? factor : 1;
            new_training(&t, &c, B, T);
            seconds = measure(run_step, &t, quick ? 0.2 : 0.7, 2).best;
            flops = step_flops(&c, B, T);
            sizes[0] = T;
            sizes[1] = B;
            sizes[2] = c.n_layers;
            sizes[3] = c.d_model;
            sizes[4] = c.vocab_size;
            printf("  %5d: %7.1f (%4.0f)", sizes[which], seconds * 1e3, flops / seconds / 1e9);
            free_training(&t);
        }
        printf("\n");
    }
}

/* ---- DeepSeek-V3's own ----------------------------------------------------------------------- */
/* what other programs leave free */
static double free_memory(void) {
    double kilobytes = 0.0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lf", &kilobytes) == 1) break;
    if (file) fclose(file);
    if (kilobytes > 0.0) return kilobytes * 1024.0;
    return 0.5 * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}
/* a module's cost beside its FLOPs; steps without and with it alternate, to be disturbed alike */
static void table_mtp(void) {
    static const char *const presets[] = {"deepseek-base", "deepseek-large", "deepseek-xl"};
    const int T = 256, n = quick ? 3 : 7;
    int i, j, k;
    printf("\n== an MTP module: a training step with it by one without, %d threads: seconds\n"
           "   %-14s %8s %9s %9s %7s %7s %9s %8s\n",
           n_threads, "", "B x T", "without", "with", "best", "median", "by FLOPs", "more");
    for (i = 0; i < 3; i++) {
        llm_config c[2];
        training t[2];
        double seconds[2][16], ratio[16], best[2], more, flops;
        int B = 4;
        named_config(&c[0], presets[i]);
        c[1] = c[0];
        c[1].mtp_depth = 1;
        while (B && planned_bytes(&c[0], B, T) + planned_bytes(&c[1], B, T) > 0.9 * free_memory())
            B /= 2;
        flops = step_flops(&c[1], B ? B : 4, T) / step_flops(&c[0], B ? B : 4, T);
        if (!B || (quick && i)) {
            printf("   %-14s %52s %9.3f\n", presets[i], B ? "" : "too little memory", flops);
            continue;
        }
        for (k = 0; k < 2; k++) {
            new_training(&t[k], &c[k], B, T);
            run_step(&t[k]);
        }
        for (j = 0; j < n; j++) {
            for (k = 0; k < 2; k++) {
                run_step(&t[k]);
                seconds[k][j] = t[k].forward + t[k].backward + t[k].update;
            }
            ratio[j] = seconds[1][j] / seconds[0][j];
        }
        for (k = 0; k < 2; k++) {
            free_training(&t[k]);
            best[k] = timing_of(seconds[k], n).best;
        }
        more = best[1] / best[0];
        printf("   %-14s %d x %4d %9.3f %9.3f %7.3f %7.3f %9.3f %+6.1f %%\n", presets[i], B, T,
               best[0], best[1], more, timing_of(ratio, n).median, flops,
               100.0 * (more / flops - 1.0));
    }
}
static void table_cache(void) {
    int i;
    printf("\n== bytes of cache per token, f32, and of plain multi-head attention of that width\n");
    for (i = 0; llm_config_preset_name(i); i++) {
        const char *name = llm_config_preset_name(i);
        double bytes, plain;
        llm_config c;
        named_config(&c, name);
        if (c.arch != LLM_ARCH_DEEPSEEK_V3) continue;
        bytes = (double)llm_config_cache_bytes(&c, 1, LLM_F32);
        plain = 8.0 * c.n_layers * c.d_model;
        printf("   %-18s %8.0f %9.0f %6.1f times\n", name, bytes, plain, plain / bytes);
    }
}
/* Idle experts cost what reading and writing them does: a parameter is read twice, its gradient
 * written and read for the norm, and AdamW moves 28 bytes. */
static void table_experts(void) {
    static const int counts[] = {4, 8, 16, 32, 64};
    double first = 0.0, first_params = 0.0;
    int i;
    printf("\n== experts, 2 of them active: step of 4 x 256, 4 layers, width 512, %d threads: "
           "seconds\n   %7s %10s %9s %9s %9s %9s   by memory traffic\n",
           n_threads, "experts", "million", "forward", "backward", "update", "step");
    for (i = 0; i < (quick ? 3 : 5); i++) {
        llm_config c;
        training t;
        double step, params, expected;
        named_config(&c, "moe-162m");
        c.n_layers = 4;
        c.first_k_dense = 0;
        c.vocab_size = 4096;
        c.n_routed_experts = counts[i];
        params = (double)llm_config_param_count(&c);
        new_training(&t, &c, 4, 256);
        step = measure(run_step, &t, quick ? 0.0 : 4.0, 3).best;
        if (!i) {
            first = step;
            first_params = params;
        }
        expected = first + 44.0 * (params - first_params) / peak->bytes[1];
        printf("   %7d %10.1f %9.3f %9.3f %9.3f %9.3f %9.3f %+6.1f %%\n", counts[i], params / 1e6,
               t.forward, t.backward, t.update, step, expected, 100.0 * (step / expected - 1.0));
        free_training(&t);
    }
}

/* ---- files and text -------------------------------------------------------------------------- */
static void run_load(void *directory) {
    llm_model *model = llm_model_load((const char *)directory, NULL, &error);
    TRY(model);
    llm_model_free(model);
}
static void table_load(void) {
    static const char *const files[] = {"model.safetensors", "generation_config.json",
                                        "config.json"};
    static char directory[] = "build/bench-load";
    llm_config config;
    llm_model *model;
    double save, megabytes;
    timing t;
    int i;
    named_config(&config, "gpt2");
    megabytes = 4e-6 * (double)llm_config_param_count(&config);
    cli_make_directory(directory);
    model = llm_model_create(&config, NULL, &error);
    TRY(model);
    save = cli_seconds();
    TRY(!llm_model_save(model, directory, LLM_F32, &error));
    save = cli_seconds() - save;
    llm_model_free(model);
    t = measure(run_load, directory, quick ? 0.5 : 2.0, 3);
    for (i = 0; i < 3; i++) remove(cli_in(directory, files[i]));
    NEED(!rmdir(directory), "%s: %s", directory, strerror(errno));
    printf("\n== files: GPT-2 124M, %.0f MB: saved in %.2f s; mapped, once cached, in %.2f ms\n",
           megabytes, save, t.best * 1e3);
}

/* ---- a model that is larger than f32 would let it be ----------------------------------------- */
static const char large_directory[] = "build/bench-large";
static const char large_file[] = "build/bench-large/model.gguf";

/* bytes of all tensors; of those that a token meets, a router's choice of the experts, one row of
 * the embedding and no module for later tokens */
static double tensor_bytes(const llm_model *model, double *met) {
    const llm_config *c = llm_model_config(model);
    double bytes = 0.0;
    size_t i;
    *met = 0.0;
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor tensor = llm_model_tensor(model, i);
        size_t n = 1;
        double size;
        int k, layer = -1;
        for (k = 0; k < tensor.n_dims; k++) n *= (size_t)tensor.dims[k];
        size = (double)llm_dtype_size(tensor.dtype, n);
        bytes += size;
        sscanf(tensor.name, "model.layers.%d.", &layer);
        if (layer >= c->n_layers) continue;
        if (strstr(tensor.name, ".experts."))
            size *= (double)c->num_experts_per_tok / c->n_routed_experts;
        else if (strstr(tensor.name, "embed_tokens") && !c->tie_embeddings)
            size /= c->vocab_size;
        *met += size;
    }
    return bytes;
}
/* in gigabytes, of a session with room for all positions */
static double cache_gigabytes(const llm_config *config, llm_dtype type) {
    llm_session_desc d;
    llm_memory memory;
    memset(&d, 0, sizeof d);
    d.cache_dtype = type;
    d.n_threads = n_threads;
    TRY(!llm_session_memory(config, &d, &memory, &error));
    return 1e-9 * (double)memory.cache;
}
/* parameters a second that are drawn and put into blocks, from a model of one layer */
static double creation_rate(llm_config c, llm_dtype type) {
    double seconds;
    c.n_layers = c.first_k_dense = 1;
    c.mtp_depth = 0;
    c.vocab_size = 4096;
    seconds = cli_seconds();
    llm_model_free(new_model(&c, type));
    return (double)llm_config_param_count(&c) / (cli_seconds() - seconds);
}
static void large_files(llm_model *model, double bytes) {
    struct statvfs disk;
    double seconds;
    int i;
    cli_make_directory(large_directory);
    NEED(!statvfs(large_directory, &disk), "%s: %s", large_directory, strerror(errno));
    if ((double)disk.f_bavail * (double)disk.f_frsize < 1.1 * bytes) {
        printf("   not saved: %.1f GB are free on the disk, and %.1f are needed\n",
               1e-9 * (double)disk.f_bavail * (double)disk.f_frsize, 1.1e-9 * bytes);
        llm_model_free(model);
    } else {
        cli_note("writing %.1f GB into %s, which is removed afterwards", 1e-9 * bytes,
                 large_directory);
        seconds = cli_seconds();
        TRY(!llm_gguf_save(model, NULL, large_file, LLM_DTYPE_DEFAULT, &error));
        printf("   saved as GGUF in %.1f s, %.2f GB\n", cli_seconds() - seconds,
               1e-9 * (double)cli_can_open(large_file, &error));
        llm_model_free(model);         /* its memory is the page cache's now */
        for (i = 0; i < 2; i++) {
            llm_model_desc md;
            memset(&md, 0, sizeof md);
            md.n_threads = n_threads;
            seconds = cli_seconds();
            model = llm_model_load(large_file, &md, &error);
            TRY(model);
            printf("   loaded in %.3f s\n", cli_seconds() - seconds);
            llm_model_free(model);
        }
        remove(large_file);
    }
    NEED(!rmdir(large_directory), "%s: %s", large_directory, strerror(errno));
}
static void table_large(void) {
    static const char name[] = "deepseek-10b";
    const int prompt = 16, n = 16;
    const llm_dtype type = LLM_Q4_K;
    double params, bytes, met, seconds, share;
    struct rusage usage;
    llm_config config;
    read_job job;
    inference f;
    named_config(&config, name);
    params = (double)llm_config_param_count(&config);
    f.model = llmi_model_allocate(&config, NULL, &error);        /* no values have a place yet */
    TRY(f.model);
    for (size_t i = 0; i < f.model->table.n; i++) llmi_values_set(f.model, i, type);
    bytes = tensor_bytes(f.model, &met);
    llm_model_free(f.model);
    printf("\n== %s, %d threads: %.2f billion parameters, %.2f of them active\n"
           "   parameters in %s: %.2f GB; cache of %d positions: %.2f GB in f32, %.2f in Q8_0\n",
           name, n_threads, 1e-9 * params, 1e-9 * (double)llm_config_active_param_count(&config),
           llm_dtype_name(type), 1e-9 * bytes, config.max_seq_len,
           cache_gigabytes(&config, LLM_F32), cache_gigabytes(&config, LLM_Q8_0));
    if (free_memory() < 1.25 * bytes) {
        printf("   skipped: %.1f GB of memory are free, and %.1f are needed\n",
               1e-9 * free_memory(), 1.25e-9 * bytes);
        return;
    }
    fflush(stdout);
    cli_note("drawing the parameters, which takes about %.0f s",
             params / creation_rate(config, type));
    seconds = cli_seconds();
    f.model = new_model(&config, type);
    seconds = cli_seconds() - seconds;
    printf("   made in %.1f s: %.0f million parameters a second\n", seconds,
           1e-6 * params / seconds);
    new_session(&f, 2 * (prompt + n), prompt, n);
    job = reading();
    met += (double)llm_config_cache_bytes(&config, 1, LLM_F32) * (prompt + n / 2.0);
    seconds = decode_seconds(&f, &job, quick ? 5 : 15, met, &share);
    printf("   decode: %.2f ms a token, %.1f tokens/s; %.2f GB a token are %.1f GB/s, %.0f %% of "
           "reading at the time\n",
           seconds * 1e3, 1.0 / seconds, met * 1e-9, met / seconds / 1e9, 100.0 * share);
    getrusage(RUSAGE_SELF, &usage);
    printf("   peak memory so far: %.2f GB\n", 1e-9 * resident(&usage));
    fflush(stdout);
    llm_session_free(f.session);
    large_files(f.model, bytes);
    llmi_release(NULL, f.tokens);
    llmi_release(NULL, f.written);
    llmi_release(NULL, f.logits);
}

typedef struct encoding {
    llm_tokenizer *tokenizer;
    char *text;
    size_t size, n_tokens;
} encoding;

static void run_encode(void *argument) {
    encoding *e = (encoding *)argument;
    TRY(!llm_tokenizer_encode(e->tokenizer, e->text, e->size, 0, NULL, 0, &e->n_tokens, &error));
}
static void table_text(void) {
    const int vocab_size = quick ? 2048 : 16384;
    encoding e;
    double train, seconds;
    printf("\n== tokenizer, 1 thread: ");
    if (cli_can_open("llm.h", &error) < 0) {
        printf("skipped: %s\n", error.message);
        return;
    }
    e.text = cli_read("llm.h", &e.size);
    train = cli_seconds();
    e.tokenizer = llm_tokenizer_train(e.text, e.size, vocab_size, NULL, &error);
    TRY(e.tokenizer);
    train = cli_seconds() - train;
    seconds = measure(run_encode, &e, 0.5, 3).best;
    printf("llm.h's text, %.0f kB; %d tokens learnt in %.2f s; encoded at %.1f MB/s, %.1f "
           "characters a token\n",
           (double)e.size / 1e3, llm_tokenizer_vocab_size(e.tokenizer), train,
           (double)e.size / seconds / 1e6, (double)e.size / (double)e.n_tokens);
    llm_tokenizer_free(e.tokenizer);
    free(e.text);
}

/* ---- one figure per line, for other programs ------------------------------------------------- */
typedef struct timed { void (*run)(void *); void *argument; } timed;

static double seconds_of(void *argument) {
    const timed *job = (const timed *)argument;
    const double start = cli_seconds();
    job->run(job->argument);
    return cli_seconds() - start;
}
static double seconds_of_products(void *rows) {
    return all_products(*(const int *)rows, n_threads, 0.0, 0, NULL);
}
static int serve(double (*seconds)(void *), void *argument) {
    struct rusage usage;
    seconds(argument);                 /* warm up */
    if (serving) cli_serve(seconds, argument);
    else printf("ready\n");
    for (int i = 0; !serving && i < reps; i++) printf("%.6f\n", seconds(argument));
    getrusage(RUSAGE_SELF, &usage);
    printf("maxrss %.0f\n", resident(&usage));
    return 0;
}

/* ---- all of it ------------------------------------------------------------------------------- */
/* needs: bits of tables that come first, the machine's peak and bandwidth */
static const struct { const char *name; void (*table)(void); int needs; } tables[] = {
    {"peak", table_peak, 0},           {"bandwidth", table_bandwidth, 0},
    {"gemm", table_gemm, 3},           {"attention", table_attention, 3},
    {"ops", table_ops, 0},             {"step", table_step, 3},
    {"breakdown", table_breakdown, 0}, {"prefill", table_prefill, 3},
    {"decode", table_decode, 3},       {"scaling", table_scaling, 0},
    {"experts", table_experts, 3},     {"mtp", table_mtp, 0},
    {"cache", table_cache, 0},         {"load", table_load, 0},
    {"text", table_text, 0},           {"large", table_large, 2}};
#define N_TABLES ((int)(sizeof tables / sizeof tables[0]))
#define ALL_TABLES ((1 << (N_TABLES - 1)) - 1)     /* but the last */

static const char *only, *model_name;
static int step_size[2], prefill_size[2], decode_size[2], gemm_size[2], chosen, large;
static cli_option options[] = {
    CLI_SWITCH("--quick", &quick, "fewer sizes and repetitions"),
    CLI_WHOLE("--threads", &n_threads, "0", 0, "0 = all cores"),
    CLI_STRING("--only", &only, "", "tables, with commas between them: peak bandwidth gemm "
               "attention ops step breakdown prefill decode scaling experts mtp cache load text"),
    CLI_SWITCH("--large", &large, "as --only large: deepseek-10b, which takes 8 GB of memory and "
               "as much of the disk; no other table"),
    CLI_HEAD("one figure instead, in seconds per line"),
    CLI_TWO("--step", step_size, "a training step of B sequences of T tokens"),
    CLI_WHOLE("--prefill", prefill_size, "", 1, "of so many tokens"),
    CLI_TWO("--decode", decode_size, "a prompt of so many tokens, and how many more"),
    CLI_WHOLE("--gemm", gemm_size, "", 1, "the products of a step of so many rows"),
    CLI_STRING("--model", &model_name, "gpt2", "a preset, 68m or moe-162m"),
    CLI_CHOICE("--precision", &chosen, "f32|bf16|fp8", "of products"),
    CLI_SWITCH("--recompute", &recompute, "activations are computed again"),
    CLI_WHOLE("--reps", &reps, "5", 1, "how often it is measured"),
    CLI_SWITCH("--serve", &serving, "as often as each line of the standard input says"),
    CLI_END
};
/* the tables that a list names, a bit each; -1: an unknown name */
static int tables_named(const char *list) {
    int i, which = 0;
    while (*list) {
        const size_t n = strcspn(list, ",");
        for (i = 0; i < N_TABLES; i++)
            if (strlen(tables[i].name) == n && !strncmp(list, tables[i].name, n)) break;
        if (i == N_TABLES) return -1;
        which |= 1 << i;
        list += n + (list[n] == ',');
    }
    return which;
}

int main(int argc, char **argv) {
    int i, which = ALL_TABLES;
    cli_program = "bench";
    const int n_files = cli_read_options(options, argv + (argc > 0), "usage: bench [OPTION]...\n");
    if (n_files < 0) return 0;
    NEED(!n_files, "%s: not an option", argv[1]);
    precision = (llm_precision)chosen;
    const int one = !!*step_size + !!*prefill_size + !!*decode_size + !!*gemm_size;
    NEED(one < 2, "--step, --prefill, --decode, --gemm: only one of them at a time");
    if (serving) cli_no_effect(options, "--reps", "with --serve");
    if (one) cli_no_effect(options, "--quick --only --large", "on one figure");
    else cli_no_effect(options, "--model --precision --recompute --reps --serve", "on tables");
    if (large) cli_no_effect(options, "--only", "with --large");
    if (*only || large) which = tables_named(large ? "large" : only);
    NEED(which > 0, "--only %s: --help names the tables", only);
    n_threads = llmi_thread_count(n_threads);
    if (*gemm_size) return serve(seconds_of_products, gemm_size);
    if (one) {
        llm_config config;
        timed job;
        training t;
        inference f;
        named_config(&config, model_name);
        printf("parameters %.0f\n", (double)llm_config_param_count(&config));
        if (*step_size) {
            const llm_memory plan = planned(&config, step_size[0], step_size[1]);
            printf("planned_parameters %.0f\nplanned_gradients %.0f\nplanned_optimizer %.0f\n"
                   "planned_activations %.0f\nplanned_scratch %.0f\nplanned_total %.0f\n",
                   (double)plan.parameters, (double)plan.gradients, (double)plan.optimizer,
                   (double)plan.activations, (double)plan.scratch, (double)plan.total);
            new_training(&t, &config, step_size[0], step_size[1]);
            job.run = run_step;
            job.argument = &t;
        } else {
            const int *size = *decode_size ? decode_size : prefill_size;
            new_inference(&f, &config, size[0], size[1]);
            job.run = size[1] ? run_generate : run_prefill;
            job.argument = &f;
        }
        return serve(seconds_of, &job);
    }
    peak = (machine *)mmap(NULL, sizeof *peak, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                           -1, 0);
    NEED(peak != MAP_FAILED, "mmap: %s", strerror(errno));
    memset(peak, 0, sizeof *peak);
    for (i = N_TABLES; i-- > 0;)
        if (which >> i & 1) which |= tables[i].needs;
    printf("llm.h, %d thread%s\n", n_threads, n_threads > 1 ? "s" : "");
    for (i = 0; i < N_TABLES; i++)
        if (which >> i & 1) in_child(tables[i].table);
    return 0;
}
