/* train_mpi.c -- one model learns on many machines: data parallel training over MPI.
 *
 *     mpicc -O2 examples/train_mpi.c -o train_mpi -lm
 *     mpirun -np 4 --map-by node --bind-to none ./train_mpi --out shakespeare shakespeare.txt
 *
 * Every rank holds all weights and runs --batch sequences of its own; an all-reduce adds up the
 * gradients, and all make the same update. With --shard-optimizer (ZeRO-1, arXiv:1910.02054) a rank
 * has the optimizer's state of a slice of the weights only: a slice's gradient is summed in its
 * owner, who updates it, and all get its weights. R ranks with batch B see the sequences of one
 * with batch R B: their losses are the same to rounding. Only rank 0 reads and writes files. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"
#include <mpi.h>

#define PIECE (1 << 22)   /* floats that are sent at a time: MPI takes memory for so many */
#define TIMED(call) do { in_mpi -= MPI_Wtime(); call; in_mpi += MPI_Wtime(); } while (0)
#define SUM(x, n, type) TIMED(MPI_Allreduce(MPI_IN_PLACE, x, n, type, MPI_SUM, MPI_COMM_WORLD))

static int rank, ranks;
static double in_mpi;                                /* seconds */
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

/* each slice of x becomes its sum over the ranks, in its owner or in all; or its owner's, in all */
enum { SUM_IN_OWNER, SUM_IN_ALL, COPY_OWNER };
static void exchange(float *x, const size_t *slice, int what) {
    for (int r = 0; r < ranks; r++)
        for (size_t i = slice[r]; i < slice[r + 1]; i += PIECE) {
            const int n = slice[r + 1] - i < PIECE ? (int)(slice[r + 1] - i) : PIECE;
            float *at = x + i;
            if (what == SUM_IN_OWNER)
                TIMED(MPI_Reduce(r == rank ? MPI_IN_PLACE : at, at, n, MPI_FLOAT, MPI_SUM, r,
                                 MPI_COMM_WORLD));
            else if (what == SUM_IN_ALL) SUM(at, n, MPI_FLOAT);
            else TIMED(MPI_Bcast(at, n, MPI_FLOAT, r, MPI_COMM_WORLD));
        }
}

int main(int argc, char **argv) {
    int *token_bytes = NULL, vocab = 0;
    llm_tokenizer *tokenizer = NULL;
    llm_data *data = NULL;
    llm_memory memory;
    size_t count;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    cli_be_rank("train_mpi", rank, end_all);
    const int n_files = cli_read_options(options, argv + 1, "usage: mpirun ... train_mpi "
                                         "[OPTION]... [TEXT FILE]...   (none: llm.h)\n");
    if (n_files < 0) return MPI_Finalize();
    cli_check_training(options, &o.model, &o.train);

    if (rank == 0) {
        cli_texts texts = cli_texts_of(argv + 1, n_files, 0, 0);
        tokenizer = cli_tokenizer(o.tokenizer, &texts, 2048);
        cli_write_tokens(&texts, tokenizer, cli_special_tokens(tokenizer), o.out, "data.tok");
        data = cli_open_data(&texts, &o.train, 0, 0);
        vocab = llm_data_vocab_size(data);
        token_bytes = cli_token_bytes(tokenizer, vocab);
        NEED(llm_data_window_count(data) >= (int64_t)ranks * o.train.batch,
             "%lld tokens: an update takes %lld sequences of %d",
             (long long)llm_data_token_count(data), (long long)ranks * o.train.batch, o.train.seq);
    }
    int agreed[] = {vocab, -(int)llm_context_isa(NULL)};            /* kernels that all have */
    MPI_Allreduce(MPI_IN_PLACE, agreed, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    vocab = agreed[0], o.train.isa = (llm_isa)-agreed[1];
    llm_train_desc desc = cli_train_desc(options, &o.train);
    const llm_config config = cli_new_config(&o.model, vocab, o.train.seq);
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    const size_t floats = memory.parameters / sizeof(float);        /* whole blocks of 16 */
    size_t slice[ranks + 1];                         /* where each begins, and the last one ends */
    for (int r = 0; r <= ranks; r++) slice[r] = floats / 16 * (size_t)r / (size_t)ranks * 16;
    const size_t first = slice[rank], own = slice[rank + 1] - first;
    NEED(floats % 16 == 0 && own, "%zu weights for %d ranks", floats, ranks);
    if (o.shard) desc.shard_first = first, desc.shard_count = own;
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    llm_model *model = cli_new_model(&config, &o.train, tokenizer); /* the same in all ranks */
    desc.seed = llm_random(desc.seed, (uint64_t)rank);              /* of dropout: another one */
    llm_trainer *trainer = llm_trainer_create(model, &desc, &error);
    TRY(trainer);
    float *gradients = llm_trainer_gradients(trainer, &count);      /* floats, then a short tail */
    const int n = o.train.batch * o.train.seq, all = n * ranks;     /* of a rank, of all ranks */
    int32_t *x = (int32_t *)cli_alloc(2 * (size_t)all, sizeof *x), *y = x + all;
    cli_print_model(&config);
    printf("%lld tokens of a vocabulary of %d; %d ranks with %.1f MB each, %.1f of them the "
           "optimizer's state\n", (long long)llm_data_token_count(data), vocab, ranks,
           1e-6 * (double)memory.total, 1e-6 * (double)memory.optimizer);
    FILE *log = rank ? NULL : cli_open_log(o.out, 0, "step,train_loss,mtp_loss,lr,grad_norm,"
                                           "train_bits_per_byte\n");
    const double start = MPI_Wtime();
    cli_line line = {.n = 0};
    for (int step = 1; step <= o.train.steps; step++) {
        cli_losses l = {.bytes = 0};
        for (int r = 0; rank == 0 && r < ranks; r++)
            TRY(!llm_data_batch(data, (int64_t)(step - 1) * ranks + r, x + r * n, y + r * n,
                                &error));
        cli_add_bytes(&l, token_bytes, y, all);
        TIMED(MPI_Bcast(x, 2 * all, MPI_INT32_T, 0, MPI_COMM_WORLD));
        TRY(!llm_trainer_forward(trainer, x + rank * n, y + rank * n, &l.last, &error));
        TRY(!llm_trainer_backward(trainer, &error));
        cli_add_losses(&l);
        exchange(gradients, slice, o.shard ? SUM_IN_OWNER : SUM_IN_ALL);
        SUM(gradients + floats, (int)(count - floats), MPI_FLOAT);
        SUM(&l, 4, MPI_DOUBLE);                      /* main and mtp */
        if (o.shard) {
            double norm = llm_trainer_gradient_square_sum(trainer, first, own);
            SUM(&norm, 1, MPI_DOUBLE);
            norm = sqrt(norm) * llm_trainer_gradient_scale(trainer);
            TRY(!llm_trainer_update_range(trainer, first, own, norm, &l.last, &error));
            exchange(llm_trainer_weights(trainer, NULL), slice, COPY_OWNER);
        } else TRY(!llm_trainer_update(trainer, &l.last, &error));
        if (rank) continue;
        const double now = MPI_Wtime() - start, mtp = cli_mean_of(l.mtp);
        fprintf(log, "%d,%.9g,%.9g,%.9g,%.9g,%.5f\n", step, cli_mean_of(l.main), mtp,
                l.last.learning_rate, l.last.grad_norm, cli_bits_per_byte(&l));
        if (step > 1 && step < o.train.steps && !cli_due(&line)) continue;
        cli_bar(&line, (double)step / o.train.steps, (o.train.steps - step) * now / step);
        cli_add_update(&line, step, o.train.steps, &l, (double)all * step / now);
        cli_add(&line, "  %.0f %% in MPI", 100 * in_mpi / now);
        if (config.mtp_depth) cli_add(&line, "  mtp %.3f", mtp);
        cli_show(&line, step == o.train.steps);
    }
    if (rank == 0) {
        NEED(!ferror(log) && !fclose(log), "%s/log.csv: %s", o.out, strerror(errno));
        cli_save(model, tokenizer, o.out);
        printf("%d updates; the model is in %s\n", o.train.steps, o.out);
        cli_print_next(argv[0], o.out, tokenizer != NULL);
    }
    return MPI_Finalize();                           /* which frees the rest with the process */
}
