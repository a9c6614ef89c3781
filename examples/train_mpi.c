/* train_mpi.c -- one model learns on many machines: data parallel training over MPI.
 *
 *     mpicc -O2 examples/train_mpi.c -o train_mpi -lm
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
#include "cli.h"
#include <mpi.h>

#define BLOCK 16          /* floats; the weights are whole blocks, and slices of them, too */
#define CHUNK (1 << 22)   /* floats that go into one reduce-scatter, or a few more */

static int rank, ranks;
static struct {
    const char *out, *tokenizer;
    int shard;
    cli_model model;                                 /* --arch, --preset, --layers, ... */
    cli_training train;                              /* --seq, --batch, --lr, ... */
} o;
static cli_option options[] = {
    CLI_STRING("--out", &o.out, "model", "directory for model, tokenizer and log.csv"),
    CLI_STRING("--tokenizer", &o.tokenizer, "", "tokenizer.json, or its directory; else 2048 "
               "tokens are learned"),
    CLI_SWITCH("--shard-optimizer", &o.shard, "divide the optimizer's state among the ranks"),
    CLI_HEAD("model"),
    CLI_MODEL_OPTIONS(o.model),
    CLI_HEAD("training; the batch is that of each rank"),
    CLI_TRAINING_OPTIONS(o.train),
    CLI_END
};

static void end_all(int status) { MPI_Abort(MPI_COMM_WORLD, status); }
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
    static llm_model_desc model_desc;                /* static: all zero, so all defaults */
    llm_train_stats stats;
    llm_memory memory;
    llm_tokenizer *tokenizer = NULL;
    MPI_Errhandler handler;
    MPI_Datatype block;                              /* so that an int counts all weights */
    char *text = NULL;
    int32_t *tokens = NULL;
    int head[2];
    size_t size = 0, n = 0, count, i;
    FILE *rows = NULL;

    MPI_Init(&argc, &argv);
    MPI_Comm_create_errhandler(broken, &handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Type_contiguous(BLOCK, MPI_FLOAT, &block);
    MPI_Type_commit(&block);
    char **files = argv + (argc > 0);
    cli_be_rank("train_mpi", rank, end_all);
    const int n_files = cli_read_options(options, files, "usage: mpirun ... train_mpi [OPTION]... "
                                         "[TEXT FILE]...   (none: llm.h)\n");
    if (n_files < 0) return MPI_Finalize();
    cli_check_training(options, &o.model, &o.train);
    llm_train_desc desc = cli_train_desc(options, &o.train);
    const uint64_t seed = desc.seed;

    if (rank == 0) {
        for (int k = 0; k < n_files; k++) {
            char *part = cli_read(files[k], &n);
            NEED(text = (char *)realloc(text, size + n + 1), "out of memory");
            memcpy(text + size, part, n);
            size += n;
            free(part);
        }
        if (!text) text = cli_read("llm.h", &size);
        tokenizer = *o.tokenizer ? llm_tokenizer_load(o.tokenizer, NULL, &error)
                                 : llm_tokenizer_train(text, size, 2048, NULL, &error);
        TRY(tokenizer);
        NEED(tokens = (int32_t *)malloc((size + 1) * sizeof *tokens), "out of memory");
        TRY(!llm_tokenizer_encode(tokenizer, text, size, 0, tokens, size + 1, &n, &error));
        NEED(n < INT_MAX, "%zu tokens are too many for one broadcast", n);
    }
    head[0] = (int)n;
    head[1] = llm_tokenizer_vocab_size(tokenizer);   /* 0 for NULL, on the other ranks */
    MPI_Bcast(head, 2, MPI_INT, 0, MPI_COMM_WORLD);
    n = (size_t)head[0];
    const llm_config config = cli_new_config(&o.model, head[1], desc.seq_len);
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    const size_t R = (size_t)ranks, B = (size_t)desc.batch_size, T = (size_t)desc.seq_len,
                 windows = n ? (n - 1) / T : 0;
    NEED(windows >= R * B, "%zu tokens: an update takes %zu sequences of %zu", n, R * B, T);
    if (rank) tokens = (int32_t *)malloc(n * sizeof *tokens);
    size_t *order = (size_t *)malloc(windows * sizeof *order);
    int32_t *x = (int32_t *)malloc(2 * B * T * sizeof *x);
    int *counts = (int *)malloc(2 * R * sizeof *counts), *firsts = counts + R;
    float *chunk = (float *)malloc((CHUNK + R * BLOCK) * sizeof *chunk);
    NEED(tokens && order && x && counts && chunk, "out of memory");
    MPI_Bcast(tokens, head[0], MPI_INT32_T, 0, MPI_COMM_WORLD);

    model_desc.seed = seed;
    model_desc.n_threads = o.train.threads;
    desc.seed = llm_random(seed, (uint64_t)rank);    /* of dropout */
    const size_t floats = memory.parameters / sizeof(float), first = cut(floats, (size_t)rank, R),
                 own = cut(floats, (size_t)rank + 1, R) - first;
    NEED(floats % BLOCK == 0 && own, "%zu weights for %d ranks", floats, ranks);
    for (i = 0; i < R; i++) {
        firsts[i] = (int)(cut(floats, i, R) / BLOCK);
        counts[i] = (int)(cut(floats, i + 1, R) / BLOCK) - firsts[i];
    }
    if (o.shard) desc.shard_first = first, desc.shard_count = own;
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    llm_model *model = llm_model_create(&config, &model_desc, &error);
    TRY(model);
    llm_trainer *trainer = llm_trainer_create(model, &desc, &error);
    TRY(trainer);
    float *weights = llm_trainer_weights(trainer, NULL);
    float *gradients = llm_trainer_gradients(trainer, &count);       /* floats, then a short tail */
    MPI_Bcast(weights, (int)(floats / BLOCK), block, 0, MPI_COMM_WORLD);
    if (rank == 0) {
        const llm_special_tokens special = cli_special_tokens(tokenizer);
        cli_print_model(&config);
        printf("%zu tokens of a vocabulary of %d; %d ranks with %.1f MB each, %.1f of them the "
               "optimizer's state\n", n, head[1], ranks, 1e-6 * (double)memory.total,
               1e-6 * (double)memory.optimizer);
        cli_make_directory(o.out);                   /* fail now rather than at the end */
        TRY(!llm_model_set_special_tokens(model, &special, &error));
        TRY(!llm_model_save(model, o.out, LLM_F32, &error));
        TRY(!llm_tokenizer_save(tokenizer, o.out, &error));
        rows = cli_open_log(o.out, 0, "step,train_loss,mtp_loss,lr,grad_norm\n");
    }

    const double start = MPI_Wtime();
    double exchanged = 0, from;
    cli_line line;
    memset(&line, 0, sizeof line);
    for (int step = 1; step <= o.train.steps; step++) {
        batch(x, B, T, tokens, order, windows, seed, ((size_t)(step - 1) * R + (size_t)rank) * B);
        TRY(!llm_trainer_forward(trainer, x, x + B * T, &stats, &error));
        TRY(!llm_trainer_backward(trainer, &error));
        const double targets = (double)stats.n_targets, ahead = (double)stats.mtp_targets[0];
        double sums[] = {targets, targets * stats.main_loss, ahead, ahead * stats.mtp_loss[0], 0};
        from = MPI_Wtime();
        if (o.shard) {
            sum_slices(gradients, floats, chunk);
            sum(gradients + floats, count - floats);
            sums[4] = llm_trainer_gradient_square_sum(trainer, first, own);
        } else {
            sum(gradients, count);
        }
        MPI_Allreduce(MPI_IN_PLACE, sums, 5, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        exchanged += MPI_Wtime() - from;
        if (o.shard) {
            const double norm = sqrt(sums[4]) * llm_trainer_gradient_scale(trainer);
            TRY(!llm_trainer_update_range(trainer, first, own, norm, &stats, &error));
            from = MPI_Wtime();
            MPI_Allgatherv(MPI_IN_PLACE, 0, block, weights, counts, firsts, block, MPI_COMM_WORLD);
            exchanged += MPI_Wtime() - from;
        } else {
            TRY(!llm_trainer_update(trainer, &stats, &error));
        }
        if (rank) continue;
        const double loss = sums[1] / sums[0], mtp = sums[2] > 0 ? sums[3] / sums[2] : 0,
                     now = MPI_Wtime() - start;
        fprintf(rows, "%d,%.9g,%.9g,%.9g,%.9g\n", step, loss, mtp, (double)stats.learning_rate,
                (double)stats.grad_norm);
        if (step > 1 && step < o.train.steps && !cli_due(&line)) continue;
        cli_bar(&line, (double)step / o.train.steps, (o.train.steps - step) * now / step);
        cli_add(&line, "  %d/%d  loss %.3f (%.3f bits/byte)", step, o.train.steps, loss,
                loss / log(2) * (double)n / (double)size);
        cli_add(&line, "  %.0f tokens/s", (double)(R * B * T) * step / now);
        cli_add(&line, "  %.0f %% in MPI", 100 * exchanged / now);
        if (config.mtp_depth) cli_add(&line, "  mtp %.3f", mtp);
        cli_show(&line, step == o.train.steps);
        fflush(rows);
    }
    if (rank == 0) {
        NEED(!ferror(rows) && !fclose(rows), "%s/log.csv: %s", o.out, strerror(errno));
        TRY(!llm_model_save(model, o.out, LLM_F32, &error));
        printf("%d updates; the model is in %s\n", o.train.steps, o.out);
        cli_print_next(argv[0], o.out, 1);
        NEED(!fflush(stdout) && !ferror(stdout), "standard output: %s", strerror(errno));
    }
    return MPI_Finalize();                           /* which frees the rest with the process */
}
