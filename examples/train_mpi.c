/* train_mpi.c -- one model learns on many machines: data parallel training over MPI.
 *
 *     mpicc -O2 -fopenmp examples/train_mpi.c -o train_mpi -lm
 *     mpirun -np 4 --map-by node --bind-to none ./train_mpi --out shakespeare shakespeare.txt
 *
 * Every rank holds all weights and runs --batch sequences of its own; an all-reduce adds up the
 * gradients, and all make the same update. With --shard-optimizer (ZeRO-1, arXiv:1910.02054) a rank
 * has the optimizer state of a slice of the weights only: gradients are reduce-scattered, slices
 * updated, weights all-gathered. R ranks with batch B see the sequences of one rank with batch R B:
 * their losses are the same to rounding. Only rank 0 reads and writes files. Expect the loss, how
 * much of the time goes into MPI (waiting for slower ranks, too), and a directory like train.c's.
 * What to expect of a network: MANY MACHINES in llm.h. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include <mpi.h>

#define BLOCK 16          /* floats; the weights are whole blocks, and slices of them, too */
#define CHUNK (1 << 22)   /* floats that go into one reduce-scatter, or a few more */
#define CHECK(ok, format, ...) /* ends all ranks unless ok; the rest as for printf */ \
    do { if (!(ok)) { fprintf(stderr, "train_mpi: rank %d: " format "\n", rank, __VA_ARGS__); \
        MPI_Abort(MPI_COMM_WORLD, 1); exit(1); } } while (0)
#define TRY(ok) CHECK(ok, "%s", error.message)
static llm_error error;
static int rank, ranks, help;

/* what stands behind name in args (both become ""), or else; with --help, prints a line about it */
static const char *option(char **args, const char *name, const char *other, const char *about) {
    if (help) printf("  %-17s %s [%s]\n", name, about, other);
    for (; args[0] && args[1]; args++) {
        if (strcmp(args[0], name)) continue;
        CHECK(*args[1] && strncmp(args[1], "--", 2), "%s: without a value", name);
        other = args[1];
        args[1] = args[0] += strlen(name);
    }
    return other;
}
static double number(char **args, const char *name, const char *other, const char *about) {
    const char *text = option(args, name, other, about);
    char *end;
    const double x = strtod(text, &end);
    CHECK(end != text && !*end && fabs(x) < 1e9, "%s %s: not a number below 1e9", name, text);
    return x;
}
static int integer(char **args, const char *name, const char *other, int least, const char *about) {
    const double x = number(args, name, other, about);
    CHECK(x >= least && x == floor(x), "%s %.10g: not a whole number from %d to 999999999", name, x,
          least);
    return (int)x;
}
static char *append_file(char *text, size_t *size, const char *path) {
    FILE *file = fopen(path, "rb");
    CHECK(file, "%s: %s", path, strerror(errno));
    for (size_t n = 1; n; *size += n) {
        CHECK(text = (char *)realloc(text, *size + 65536), "%s: out of memory", path);
        n = fread(text + *size, 1, 65536, file);
    }
    CHECK(!ferror(file) && !fclose(file), "%s: %s", path, strerror(errno));
    return text;
}
static void broken(MPI_Comm *comm, int *code, ...) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(*code, text, &n);
    fprintf(stderr, "train_mpi: rank %d: MPI: %s\n", rank, text);
    MPI_Abort(*comm, 1);
}

/* x becomes its sum over the ranks; in pieces where an int does not count them all */
static void sum(float *x, size_t count) {
    for (size_t at = 0, n; at < count; at += n) {
        n = count - at < INT_MAX / 2 ? count - at : INT_MAX / 2;
        MPI_Allreduce(MPI_IN_PLACE, x + at, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
}
/* where the i-th of some parts of floats begins, and the one before it ends */
static size_t cut(size_t floats, size_t i, size_t parts) {
    return floats / BLOCK * i / parts * BLOCK;
}
/* The rank's slice of x (floats) becomes its sum over the ranks. In K rounds, each with a part of
 * every slice: given all of x, MPI would take a copy of it, which is half of what ZeRO-1 saves. */
static void sum_slices(float *x, size_t floats, float *chunk) {
    const size_t R = (size_t)ranks, K = floats / CHUNK + 1, n = cut(floats, 1, R * K) + BLOCK;
    for (size_t k = 0; k < K; k++) {
        const size_t to = (size_t)rank * K + k, at = cut(floats, to, R * K);
        for (size_t r = 0, i = k; r < R; r++, i += K)
            memcpy(chunk + r * n, x + cut(floats, i, R * K),
                   (cut(floats, i + 1, R * K) - cut(floats, i, R * K)) * sizeof *x);
        MPI_Reduce_scatter_block(MPI_IN_PLACE, chunk, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        memcpy(x + at, chunk, (cut(floats, to + 1, R * K) - at) * sizeof *x);
    }
}
/* a rank's part of an update's sequences, all different until every one of n has been seen */
static void batch(int32_t *x, size_t B, size_t T, const int32_t *tokens, size_t *order, size_t n,
                  uint64_t seed, uint64_t at) {
    for (size_t i = 0; i < B; i++, at++) {
        if (i == 0 || at % n == 0)                     /* Fisher-Yates, inside out */
            for (size_t k = 0, j; k < n; k++) {
                j = llm_random(llm_random(seed, at / n), k) % (k + 1);
                order[k] = order[j];
                order[j] = k;
            }
        memcpy(x + i * T, tokens + order[at % n] * T, T * sizeof *x);
        memcpy(x + (B + i) * T, tokens + order[at % n] * T + 1, T * sizeof *x);
    }
}

int main(int argc, char **argv) {
    static const char *const precisions[] = {"f32", "bf16", "fp8"};
    static llm_config config;                        /* static: all zero, so all defaults */
    static llm_model_desc model_desc;
    static llm_train_desc desc;
    llm_train_stats stats;
    llm_memory memory;
    llm_tokenizer *tokenizer = NULL;
    MPI_Errhandler handler;
    MPI_Datatype block;                              /* so that an int counts all weights */
    char *text = NULL, path[512];
    int32_t *tokens = NULL;
    int shard = 0, head[2];
    size_t size = 0, n = 0, count, i;
    FILE *log = NULL;

    MPI_Init(&argc, &argv);
    MPI_Comm_create_errhandler(broken, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Type_contiguous(BLOCK, MPI_FLOAT, &block);
    MPI_Type_commit(&block);
    char **args = argv + (argc > 0);
    int wants_help = 0;
    for (i = 0; args[i]; i++) wants_help |= !strcmp(args[i], "--help") || !strcmp(args[i], "-h");
    help = wants_help && rank == 0;
    if (help) printf("usage: mpirun ... train_mpi [OPTION]... [TEXT FILE]...  (none: llm.h)\n"
                     "  --shard-optimizer: divide the optimizer's state among the ranks\n");
    const char *out = option(args, "--out", "model", "directory for model, tokenizer and log.csv");
    const char *given = option(args, "--tokenizer", "", "tokenizer.json; none: learns one");
    const char *arch = option(args, "--arch", "deepseek", "or gpt2: a tiny model of that kind");
    const char *preset = option(args, "--preset", "", "or one of those that train --help names");
    const char *precision = option(args, "--precision", "f32", "or bf16, fp8");
    desc.seq_len = integer(args, "--seq", "128", 1, "tokens of a sequence");
    desc.batch_size = integer(args, "--batch", "8", 1, "sequences of an update, for each rank");
    desc.max_steps = integer(args, "--steps", "600", 1, "updates; the first tenth warms up");
    desc.learning_rate = (float)number(args, "--lr", "2e-3", "the highest; it falls to a tenth");
    if (desc.learning_rate == 0) desc.learning_rate = LLM_OFF;
    const uint64_t seed =
        (uint64_t)integer(args, "--seed", "1", 0, "of weights and order of batches");
    if (wants_help) return MPI_Finalize();
    for (; *args; args++) {
        if (!strcmp(*args, "--shard-optimizer")) shard = 1, **args = 0;
        CHECK(**args != '-', "%s: unknown, or without a value; see --help", *args);
        if (**args && rank == 0) text = append_file(text, &size, *args);
    }
    desc.warmup_steps = desc.max_steps / 10;
    for (i = 0; i < 3 && strcmp(precision, precisions[i]); i++) continue;
    CHECK(i < 3, "--precision %s: not f32, bf16 or fp8", precision);
    desc.precision = (llm_precision)i;

    if (rank == 0) {
        if (!text) text = append_file(text, &size, "llm.h");
        tokenizer = *given ? llm_tokenizer_load(given, NULL, &error)
                           : llm_tokenizer_train(text, size, 2048, NULL, &error);
        TRY(tokenizer);
        CHECK(tokens = (int32_t *)malloc((size + 1) * sizeof *tokens), "%s", "out of memory");
        TRY(!llm_tokenizer_encode(tokenizer, text, size, 0, tokens, size + 1, &n, &error));
        CHECK(n < INT_MAX, "%zu tokens are too many for one broadcast", n);
    }
    head[0] = (int)n;
    head[1] = llm_tokenizer_vocab_size(tokenizer);   /* 0 for NULL, on the other ranks */
    MPI_Bcast(head, 2, MPI_INT, 0, MPI_COMM_WORLD);
    n = (size_t)head[0];
    if (!*preset) snprintf(path, sizeof path, "%s-tiny", arch);
    TRY(!llm_config_preset(&config, *preset ? preset : path, &error));
    config.vocab_size = head[1];
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    const size_t R = (size_t)ranks, B = (size_t)desc.batch_size, T = (size_t)desc.seq_len,
                 windows = n ? (n - 1) / T : 0;
    CHECK(windows >= R * B, "%zu tokens: an update takes %zu sequences of %zu", n, R * B, T);
    if (rank) tokens = (int32_t *)malloc(n * sizeof *tokens);
    size_t *order = (size_t *)malloc(windows * sizeof *order);
    int32_t *x = (int32_t *)malloc(2 * B * T * sizeof *x);
    int *counts = (int *)malloc(2 * R * sizeof *counts), *firsts = counts + R;
    float *chunk = (float *)malloc((CHUNK + R * BLOCK) * sizeof *chunk);
    CHECK(tokens && order && x && counts && chunk, "%s", "out of memory");
    MPI_Bcast(tokens, head[0], MPI_INT32_T, 0, MPI_COMM_WORLD);

    model_desc.seed = seed;
    desc.seed = llm_random(seed, (uint64_t)rank);    /* of dropout */
    const size_t floats = memory.parameters / sizeof(float), first = cut(floats, (size_t)rank, R),
                 own = cut(floats, (size_t)rank + 1, R) - first;
    CHECK(floats % BLOCK == 0 && own, "%zu weights for %d ranks", floats, ranks);
    for (i = 0; i < R; i++) {
        firsts[i] = (int)(cut(floats, i, R) / BLOCK);
        counts[i] = (int)(cut(floats, i + 1, R) / BLOCK) - firsts[i];
    }
    if (shard) desc.shard_first = first, desc.shard_count = own;
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    llm_model *model = llm_model_create(&config, &model_desc, &error);
    TRY(model);
    llm_trainer *trainer = llm_trainer_create(model, &desc, &error);
    TRY(trainer);
    float *weights = llm_trainer_weights(trainer, NULL);
    float *gradients = llm_trainer_gradients(trainer, &count);       /* floats, then a short tail */
    MPI_Bcast(weights, (int)(floats / BLOCK), block, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("%d ranks, %zu tokens out of %d, %.2f million parameters; of %.1f MB in a rank, "
               "%.1f are optimizer state\n", ranks, n, head[1], 1e-6 * (double)floats,
               1e-6 * (double)memory.total, 1e-6 * (double)memory.optimizer);
        TRY(!llm_model_save(model, out, LLM_F32, &error));   /* fail now rather than at the end */
        TRY(!llm_tokenizer_save(tokenizer, out, &error));
        snprintf(path, sizeof path, "%s/log.csv", out);
        CHECK(log = fopen(path, "w"), "%s: %s", path, strerror(errno));
        fprintf(log, "step,train_loss,mtp_loss,lr,grad_norm\n");
    }

    const double start = MPI_Wtime();
    double exchanged = 0, shown = 0, from;
    for (int step = 1; step <= desc.max_steps; step++) {
        batch(x, B, T, tokens, order, windows, seed, ((size_t)(step - 1) * R + (size_t)rank) * B);
        TRY(!llm_trainer_forward(trainer, x, x + B * T, &stats, &error));
        TRY(!llm_trainer_backward(trainer, &error));
        const double scale = llm_trainer_gradient_scale(trainer), valid = scale > 0 ? 1 / scale : 0;
        double sums[] = {valid, valid * stats.main_loss, valid * stats.mtp_loss[0], 0};
        from = MPI_Wtime();
        if (shard) {
            sum_slices(gradients, floats, chunk);
            sum(gradients + floats, count - floats);
            sums[3] = llm_trainer_gradient_square_sum(trainer, first, own);
        } else {
            sum(gradients, count);
        }
        MPI_Allreduce(MPI_IN_PLACE, sums, 4, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        exchanged += MPI_Wtime() - from;
        if (shard) {
            const double norm = sqrt(sums[3]) * llm_trainer_gradient_scale(trainer);
            TRY(!llm_trainer_update_range(trainer, first, own, norm, &stats, &error));
            from = MPI_Wtime();
            MPI_Allgatherv(MPI_IN_PLACE, 0, block, weights, counts, firsts, block, MPI_COMM_WORLD);
            exchanged += MPI_Wtime() - from;
        } else {
            TRY(!llm_trainer_update(trainer, &stats, &error));
        }
        if (rank) continue;
        fprintf(log, "%d,%.9g,%.9g,%.9g,%.9g\n", step, sums[1] / sums[0], sums[2] / sums[0],
                (double)stats.learning_rate, (double)stats.grad_norm);
        const double now = MPI_Wtime() - start, left = (desc.max_steps - step) * now / step;
        if (step > 1 && step < desc.max_steps && now - shown < 2) continue;
        shown = now;
        printf("%5d/%d loss %.3f", step, desc.max_steps, sums[1] / sums[0]);
        if (config.mtp_depth) printf(" mtp %.3f", sums[2] / sums[0]);
        printf("  %.0f tokens/s, %.0f %% in MPI  %.0f:%02d left\n",
               (double)(R * B * T) * step / now, 100 * exchanged / now, floor(left / 60),
               (int)fmod(left, 60));
        fflush(NULL);                                /* the log, too */
    }
    if (rank == 0) {
        CHECK(!ferror(log) && !fclose(log), "%s: %s", path, strerror(errno));
        TRY(!llm_model_save(model, out, LLM_F32, &error));
        printf("%d updates; the model is in %s\n", desc.max_steps, out);
        CHECK(!fflush(stdout) && !ferror(stdout), "standard output: %s", strerror(errno));
    }
    return MPI_Finalize();                           /* which frees the rest with the process */
}
