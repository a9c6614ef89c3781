/* train.c -- a DeepSeek-V3 or GPT-2 learns to write like the files it is given.
 *
 *     cc -O2 examples/train.c -o train -lm
 *     ./train --out shakespeare shakespeare.txt                 (--help lists the options)
 *     ./train --out tuned --from gpt2 --lr 5e-5 book.txt        goes on with a trained model
 *
 * Files are texts, or token files (*.tok, of tools/tokenize.c). The tokenizer is learned from the
 * texts, too; the last tenth is kept for validation. Expect a loss that falls from the logarithm of
 * the vocabulary, a sample now and then, and a directory that generate.c and transformers open,
 * with a line per update in log.csv, the model that was best at validation in best/, and
 * checkpoints, from which --resume goes on to the bit. Ctrl-C saves one and stops. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "cli.h"
#include <signal.h>

static llm_error error;                              /* TRY, of cli.h, prints it */

/* ---- options --------------------------------------------------------------------------------- */
static struct {
    const char *out, *val, *tokenizer, *from;
    int tsv, special, vocab, accumulate, eval, windows, save, keep, resume, overwrite, stop_at;
    int list, memory;
    double seconds;
    cli_model model;                                 /* --arch, --preset, --layers, ... */
    cli_training train;                              /* --seq, --batch, --lr, ... */
} o;
static cli_option options[] = {
    CLI_HEAD("text"),
    CLI_STRING("--out", &o.out, "model", "directory for model, checkpoints, log.csv"),
    CLI_SWITCH("--tsv", &o.tsv, "each line of a text is a prompt, a tab and an answer; only "
               "answers are learned"),
    CLI_SWITCH("--special", &o.special, "<|endoftext|> and the like, written out in a text, become "
               "the tokens that they name"),
    CLI_STRING("--val", &o.val, "", "file to validate with; else the last tenth of the text"),
    CLI_STRING("--tokenizer", &o.tokenizer, "", "tokenizer.json, or its directory, to use"),
    CLI_WHOLE("--vocab", &o.vocab, "2048", 257, "without one: how many tokens to learn, 257 or "
              "more"),
    CLI_HEAD("model"),
    CLI_STRING("--from", &o.from, "", "directory of a model to go on with; else a new one:"),
    CLI_MODEL_OPTIONS(o.model),
    CLI_HEAD("training"),
    CLI_TRAINING_OPTIONS(o.train),
    CLI_WHOLE("--accumulate", &o.accumulate, "1", 1, "how many such batches make an update"),
    CLI_NUMBER("--seconds", &o.seconds, "no limit", 0, 1e9, "end after so many, even if updates "
               "are left"),
    CLI_SWITCH("--memory", &o.memory, "print how much memory this takes, and end"),
    CLI_HEAD("on the way"),
    CLI_WHOLE("--eval", &o.eval, "100", 0, "updates between validations, with a sample each; 0 = "
              "at the end only"),
    CLI_WHOLE("--windows", &o.windows, "32", 1, "sequences of a validation"),
    CLI_WHOLE("--save", &o.save, "100", 0, "updates between checkpoints; 0 = at the end only"),
    CLI_WHOLE("--keep", &o.keep, "2", 1, "how many of them stay"),
    CLI_SWITCH("--resume", &o.resume, "go on from the newest, with the options of before; --steps, "
               "--batch, --accumulate and those of the learning rate may change"),
    CLI_SWITCH("--overwrite", &o.overwrite, "start anew, even where there is one"),
    CLI_WHOLE("--stop-at", &o.stop_at, "0", 0, "stop like Ctrl-C after that update; 0 = do not"),
    CLI_SWITCH("--list", &o.list, "the presets, with their sizes"),
    CLI_END
};
static const char usage[] =
    "usage: train [OPTION]... [FILE]...\n"
    "Files are texts (\"-\": the standard input) or token files (*.tok); without any, llm.h.\n"
    "In brackets: what holds without the option; of words, the first.\n"
    "It prints the loss in nats per token, and in bits per byte of text, which compares models\n"
    "with different tokenizers; mtp, the loss of the module that predicts one token further;\n"
    "load, that of the least and of the most used expert, 1 the mean; lr, the learning rate;\n"
    "norm, that of the gradient, before it is clipped.\n";

/* ---- data and model -------------------------------------------------------------------------- */
/* windows of token files: to learn, or to validate */
static llm_data *open_data(char **paths, int n, float valid_fraction, int valid) {
    llm_data_desc d;
    memset(&d, 0, sizeof d);
    d.batch_size = o.train.batch;
    d.seq_len = o.train.seq;
    d.seed = (uint64_t)o.train.seed;
    d.valid_fraction = valid_fraction;
    d.valid = valid && valid_fraction > 0;
    d.sequential = valid;
    d.skip_empty = 1;
    llm_data *data = llm_data_open((const char *const *)paths, n, &d, &error);
    NEED(data, "%s%s", error.message, error.code == LLM_ERR_ARGUMENT ? " (--seq)" : "");
    TRY(!llm_data_verify(data, &error));
    return data;
}

/* ---- training -------------------------------------------------------------------------------- */
static struct progress {                             /* kept in checkpoints */
    int64_t step, best_step, batch, skipped;         /* batches read; updates left out */
    cli_training train;                              /* its options */
    int accumulate;
    double best, seconds;                            /* loss of best_step; so far, all runs */
    uint64_t data, valid;                            /* fingerprints */
} run;
static llm_tokenizer *tokenizer;
static llm_model *model;
static llm_trainer *trainer;
static llm_session *session;                         /* for samples; NULL without a tokenizer */
static llm_data *data, *valid;
static int *token_bytes;                             /* of each token; NULL without a tokenizer */
static int32_t *x, *y;                               /* a batch: tokens, and those that follow */

static volatile sig_atomic_t stopped;
static void stop(int number) {                       /* a second time, it ends the program */
    stopped = 1;
    signal(number, SIG_DFL);
}

/* means over the targets of one or more batches; a target that is ignored counts nowhere */
typedef struct means {
    double loss, targets, mtp, mtp_targets, bytes, balance, batches, least, most;
} means;
static void add_means(means *m, const llm_train_stats *stats, int rows) {
    const size_t n = (size_t)rows * (size_t)o.train.seq;
    m->loss += (double)stats->main_loss * (double)stats->n_targets;
    m->targets += (double)stats->n_targets;
    m->mtp += (double)stats->mtp_loss[0] * (double)stats->mtp_targets[0];
    m->mtp_targets += (double)stats->mtp_targets[0];
    m->balance += (double)stats->balance_loss;
    m->least = m->batches ? fmin(m->least, (double)stats->expert_load_min)
                          : (double)stats->expert_load_min;
    m->most = fmax(m->most, (double)stats->expert_load_max);
    m->batches++;
    for (size_t i = 0; token_bytes && i < n; i++) if (y[i] >= 0) m->bytes += token_bytes[y[i]];
}
static double mean_loss(const means *m) { return m->targets ? m->loss / m->targets : 0; }
static double mean_mtp(const means *m) { return m->mtp_targets ? m->mtp / m->mtp_targets : 0; }
static double bits_per_byte(const means *m) { return m->bytes ? m->loss / log(2) / m->bytes : 0; }

/* The next update, of --accumulate batches. 0: it was left out, as its loss is not finite or it has
 * no target; the update after it has other batches */
static int update(means *m, llm_train_stats *stats) {
    static int bad;
    memset(m, 0, sizeof *m);
    for (int i = 0; i < o.accumulate; i++) {
        TRY(!llm_data_batch(data, run.batch++, x, y, &error));
        const llm_result result = llm_trainer_step(trainer, x, y, stats, &error);
        if (result == LLM_ERR_NUMERIC) {
            run.skipped++;
            NEED(++bad < 10, "%s, ten times in a row: the training has left what can be computed. "
                 "Start it anew with a smaller --lr or --clip, or a longer --warmup%s",
                 error.message, o.train.precision ? ", or with --precision f32" : "");
            cli_note("%s: update %lld leaves this batch out%s", error.message,
                     (long long)run.step + 1, bad > 1 ? "" : "; if it happens often, a smaller "
                     "--lr or --clip, or a longer --warmup may help");
            return 0;
        }
        TRY(!result);
        add_means(m, stats, o.train.batch);
    }
    bad = 0;
    run.step += !stats->skipped;
    run.skipped += stats->skipped;
    return !stats->skipped;
}
/* means over batches that are spread over the validation part; its last may be a smaller one */
static means validate(void) {
    const int64_t B = o.train.batch, windows = llm_data_window_count(valid),
                  all = (windows + B - 1) / B, wanted = (o.windows + B - 1) / B,
                  n = wanted < all ? wanted : all;
    llm_train_stats stats;
    means m;
    memset(&m, 0, sizeof m);
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = all * i / n, left = windows - at * B;
        const int rows = (int)(left < B ? left : B);
        TRY(!llm_data_batch(valid, at, x, y, &error));
        TRY(!llm_trainer_evaluate(trainer, x, y, rows, o.train.seq, &stats, &error));
        add_means(&m, &stats, rows);
    }
    return m;
}
/* the beginning of the validation part, up to the first target, and how the model goes on */
static void print_sample(void) {
    static cli_stream out;
    llm_generate_desc desc;
    int n = 0;
    memset(&desc, 0, sizeof desc);
    desc.sampling.temperature = 0.7f;
    desc.max_new_tokens = 60;
    desc.on_token = cli_print_token;
    desc.user = &out;
    memset(&out, 0, sizeof out);
    out.tokenizer = tokenizer;
    out.ends = llm_model_special_tokens(model);
    TRY(!llm_data_batch(valid, 0, x, y, &error));
    while (n + 1 < o.train.seq / 2 && (n < 8 || y[n - 1] < 0)) n++;
    printf("sample: ");
    for (int i = 0; i < n; i++) cli_print_token(x[i], &out);
    printf(" ==> ");
    if (llm_session_rewind(session, 0, 0, &error) ||
        llm_generate(session, x, n, &desc, NULL, 0, NULL, &error))
        cli_note("no sample: %s", error.message);
    printf("\n\n");
}
static void show_progress(cli_line *line, const means *m, const llm_train_stats *stats, double rate,
                          double share, double left, int last) {
    const llm_config *c = llm_model_config(model);
    const int by_time = cli_given(options, "--seconds");
    cli_bar(line, share, left);
    cli_add(line, by_time ? "  update %lld" : "  %lld/%d", (long long)run.step, o.train.steps);
    cli_add(line, "  loss %.3f", mean_loss(m));
    if (m->bytes) cli_add(line, " (%.3f bits/byte)", bits_per_byte(m));
    cli_add(line, "  %.0f tokens/s", rate);
    if (c->mtp_depth) cli_add(line, "  mtp %.3f", mean_mtp(m));
    if (c->n_routed_experts) cli_add(line, "  load %.1f-%.1f", m->least, m->most);
    cli_add(line, "  lr %.1e  norm %.2f", (double)stats->learning_rate, (double)stats->grad_norm);
    cli_show(line, last);
}

/* ---- what is trained ------------------------------------------------------------------------- */
/* with the files that transformers has beside a tokenizer, as they were */
static void save_model(const char *path) {
    TRY(!llm_model_save(model, path, LLM_F32, &error));
    if (tokenizer) TRY(!llm_tokenizer_save(tokenizer, path, &error));
    if (*o.from) cli_copy(o.from, path, "generation_config.json");
    if (*o.tokenizer || *o.from) cli_copy_tokenizer(*o.tokenizer ? o.tokenizer : o.from, path);
}
/* the newest checkpoint that can be read; a damaged one is said and passed over */
static void resume(void) {
    char reason[sizeof error.message] = "";
    int64_t step = INT64_MAX;
    size_t size;
    while ((step = cli_checkpoints(o.out, step, INT_MAX)) > 0) {
        const llm_result result = llm_trainer_load(trainer, cli_checkpoint(o.out, step), &error);
        const void *kept = llm_trainer_user_data(trainer, &size);
        NEED(result || size == sizeof run, "%s: of another program, or an older version of this",
             cli_checkpoint(o.out, step));
        if (!result) {
            memcpy(&run, kept, sizeof run);
            break;
        }
        NEED(result == LLM_ERR_FORMAT, "%s", error.message);
        if (!*reason) memcpy(reason, error.message, sizeof reason);
    }
    NEED(step > 0, "%s", *reason ? reason : "there is no checkpoint to go on from");
    if (*reason) cli_note("%s: going on from the one of update %lld", reason, (long long)step);
    cli_same(options, "--steps", run.train.steps, o.train.steps);
    cli_same(options, "--batch", run.train.batch, o.train.batch);
    cli_same(options, "--accumulate", run.accumulate, o.accumulate);
    cli_same(options, "--lr", run.train.lr, o.train.lr);
    cli_same(options, "--min-lr", run.train.min_lr, o.train.min_lr);
    cli_same(options, "--schedule", run.train.schedule, o.train.schedule);
    cli_same(options, "--warmup", run.train.warmup, o.train.warmup);
    NEED(run.step < o.train.steps || cli_given(options, "--steps"), "%s has had its %d updates: "
         "--steps with a larger number goes on", o.out, o.train.steps);
    run.batch = (run.batch * run.train.batch + o.train.batch - 1) / o.train.batch;
}
/* Learns the tokenizer or loads it, and makes the model, whose vocabulary is the tokenizer's, its
 * trainer and the session. Token files, if that is what is learned, are open already. */
static void prepare(cli_texts *texts) {
    static llm_model_desc model_desc;                /* static: all zero, so all defaults */
    static llm_session_desc session_desc;
    llm_train_desc desc = cli_train_desc(options, &o.train);
    const char *given = *o.tokenizer ? o.tokenizer : o.from;
    llm_config config;
    llm_memory memory;
    desc.grad_accum_steps = o.accumulate;
    desc.prolong = o.resume;
    if (cli_given(options, "--dropout")) desc.dropout = cli_or_off(o.model.dropout);
    if (*given) TRY(tokenizer = llm_tokenizer_load(given, NULL, &error));
    if (!tokenizer && !data && !o.memory)
        TRY(tokenizer = o.resume ? llm_tokenizer_load(o.out, NULL, &error)
                                 : cli_learn_tokenizer(texts, o.vocab));
    const int V = data ? llm_data_vocab_size(data)
                       : tokenizer ? llm_tokenizer_vocab_size(tokenizer) : o.vocab;
    NEED(!tokenizer || llm_tokenizer_vocab_size(tokenizer) == V,
         "a tokenizer of %d tokens, but token files of %d", llm_tokenizer_vocab_size(tokenizer), V);
    model_desc.n_threads = o.train.threads;
    model_desc.seed = (uint64_t)o.train.seed;
    if (*o.from) {
        TRY(model = llm_model_load(o.from, &model_desc, &error));
        config = *llm_model_config(model);
        NEED(V <= config.vocab_size, "%s has a vocabulary of %d, the data of %d", o.from,
             config.vocab_size, V);
        NEED(o.train.seq <= config.max_seq_len, "--seq %d: %s has a context of %d", o.train.seq,
             o.from, config.max_seq_len);
    } else {
        config = cli_new_config(&o.model, V, o.train.seq);
    }
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    if (o.memory) cli_print_memory(&memory);
    if (o.memory) exit(0);
    if (!model) {
        const llm_special_tokens ends = cli_special_tokens(tokenizer);
        TRY(model = llm_model_create(&config, &model_desc, &error));
        TRY(!llm_model_set_special_tokens(model, &ends, &error));
    }
    TRY(trainer = llm_trainer_create(model, &desc, &error));
    const size_t n = (size_t)o.train.batch * (size_t)o.train.seq;
    NEED(x = (int32_t *)malloc(2 * n * sizeof *x), "out of memory");
    y = x + n;
    if (!tokenizer) return;
    token_bytes = cli_token_bytes(tokenizer, V);
    session_desc.max_seq_len = config.max_seq_len < 128 ? config.max_seq_len : 128;
    TRY(session = llm_session_create(model, &session_desc, &error));
}
/* texts become token files in OUT; a run that goes on has to find what it had */
static void open_all_data(char **files, int n_files, cli_texts *texts) {
    static cli_path train_path, val_path;
    const llm_special_tokens special = llm_model_special_tokens(model);
    char *val[1] = {(char *)o.val};
    if (!data) {
        cli_write_tokens(tokenizer, special, texts, cli_join(train_path, o.out, "data.tok"));
        files[0] = train_path;
        n_files = 1;
        data = open_data(files, n_files, *o.val ? 0 : 0.1f, 0);
    }
    if (*o.val && !cli_ends_in(o.val, ".tok")) {
        NEED(tokenizer, "--val %s: a text, but no tokenizer: give --tokenizer", o.val);
        cli_texts text = cli_texts_of(val, 1, o.tsv, o.special);
        cli_write_tokens(tokenizer, special, &text, cli_join(val_path, o.out, "val.tok"));
        val[0] = val_path;
    }
    valid = *o.val ? open_data(val, 1, 0, 1) : open_data(files, n_files, 0.1f, 1);
    NEED(llm_data_vocab_size(valid) == llm_data_vocab_size(data),
         "%s: of a vocabulary of %d, not %d", o.val, llm_data_vocab_size(valid),
         llm_data_vocab_size(data));
    NEED(!run.step || (run.data == llm_data_fingerprint(data) &&
                       run.valid == llm_data_fingerprint(valid)),
         "%s was made with other data: the files have changed, or their order",
         cli_checkpoint(o.out, run.step));
    run.data = llm_data_fingerprint(data);
    run.valid = llm_data_fingerprint(valid);
}

/* ---- what is printed and kept ---------------------------------------------------------------- */
static void print_start(void) {
    const double windows = (double)llm_data_window_count(data),
                 sequences = (double)o.train.batch * o.accumulate;
    cli_print_model(llm_model_config(model));
    printf("%lld tokens of a vocabulary of %d: %.0f sequences of %d to learn, %lld to validate\n",
           (long long)llm_data_token_count(data), llm_data_vocab_size(data), windows, o.train.seq,
           (long long)llm_data_window_count(valid));
    if (llm_data_empty_count(data))
        printf("%lld more have nothing to learn, and are left out\n",
               (long long)llm_data_empty_count(data));
    printf("%d updates of %.0f sequences read each %.2g times\n", o.train.steps, sequences,
           sequences * o.train.steps / windows);
    if (run.step) printf("going on after update %lld\n", (long long)run.step);
}
/* how it ended, and what to type next */
static void print_end(const char *program, int done) {
    const int better = run.best_step && run.best_step < run.step;
    if (done && run.step < o.train.steps) printf("the time is up: ");
    printf("%lld updates in %.0f s; the model is in %s", (long long)run.step, run.seconds, o.out);
    if (better)
        printf(",\nthe best at validation (loss %.3f, update %lld) in %s/best", run.best,
               (long long)run.best_step, o.out);
    printf("\n");
    if (run.skipped) printf("%lld updates were left out\n", (long long)run.skipped);
    if (!done) printf("stopped: the same command with --resume goes on from here\n");
    cli_print_next(program, better ? cli_in(o.out, "best") : o.out, tokenizer != NULL);
}
/* the columns of a row of log.csv up to those of the validation */
static void log_update(FILE *log, const means *m, const llm_train_stats *stats, double rate) {
    fprintf(log, "%lld,%lld,%.5f,%.5f,%.4g,%.3g,%.3g,%.4g,%.4g,%.0f,", (long long)run.step,
            (long long)stats->tokens, mean_loss(m), mean_mtp(m), m->balance / m->batches, m->least,
            m->most, (double)stats->learning_rate, (double)stats->grad_norm, rate);
}
static void log_validation(FILE *log) {
    const means m = validate();
    const double loss = mean_loss(&m);
    fprintf(log, "%.5f,%.5f", loss, bits_per_byte(&m));
    cli_end_line();
    printf("validation loss %.3f", loss);
    if (m.bytes) printf(" (%.3f bits/byte)", bits_per_byte(&m));
    printf(", perplexity %.1f%s\n", exp(loss), loss < run.best ? ", the best so far" : "");
    if (loss < run.best) {
        run.best = loss;
        run.best_step = run.step;
        save_model(cli_in(o.out, "best"));
    }
    if (session) print_sample();
}
static void save_checkpoint(FILE *log) {
    fsync(fileno(log));                              /* no row is missing where a run goes on */
    run.train = o.train;
    run.accumulate = o.accumulate;
    TRY(!llm_trainer_set_user_data(trainer, &run, sizeof run, &error));
    TRY(!llm_trainer_save(trainer, cli_checkpoint(o.out, run.step), &error));
    cli_checkpoints(o.out, INT64_MAX, o.keep);
    save_model(o.out);
}
/* -> 1: all updates are made, or the time is up; 0: stopped */
static int train(FILE *log) {
    const int64_t first = run.step,
                  end = o.stop_at && o.stop_at < o.train.steps ? o.stop_at : o.train.steps;
    const double limit = cli_given(options, "--seconds") ? o.seconds : INFINITY;
    const double start = cli_seconds(), before = run.seconds,
                 tokens = (double)o.train.batch * o.train.seq * o.accumulate;
    double now = start, updating = 0;                /* without validation, samples and saving */
    int done = first >= o.train.steps;
    llm_train_stats stats;
    cli_line line;
    means m;
    memset(&line, 0, sizeof line);
    while (run.step < end && !stopped && !done) {
        const double began = now;
        const int updated = update(&m, &stats);
        now = cli_seconds();
        updating += now - began;
        run.seconds = before + now - start;
        if (!updated) continue;
        done = run.step == o.train.steps || run.seconds > limit;
        if (done || cli_due(&line)) {
            const double made = (double)(run.step - first);
            const double left = ((double)end - (double)run.step) * (now - start) / made;
            show_progress(&line, &m, &stats, made * tokens / updating,
                          fmax((double)run.step / (double)end, run.seconds / limit),
                          done ? 0 : fmin(left, limit - run.seconds), done);
        }
        log_update(log, &m, &stats, tokens / (now - began));
        if (done || (o.eval && run.step % o.eval == 0)) log_validation(log);
        else fputc(',', log);
        fputc('\n', log);
        NEED(!fflush(log), "%s/log.csv: %s", o.out, strerror(errno));
        if (done || stopped || run.step == end || (o.save && run.step % o.save == 0))
            save_checkpoint(log);
        now = cli_seconds();
    }
    cli_end_line();
    return done;
}

int main(int argc, char **argv) {
    static char no_file[] = "llm.h";
    char **files = argv + (argc > 0);
    cli_program = "train";
    int n_files = cli_read_options(options, files, usage), n_token_files = 0;
    int64_t size, newest;
    if (n_files < 0) return 0;
    if (o.list) return cli_list_presets();
    cli_check_training(options, &o.model, &o.train);
    if (*o.from)
        cli_no_effect(options, "--arch --preset --vocab --layers --heads --width --ffn --context",
                      "with --from");
    if (*o.tokenizer) cli_no_effect(options, "--vocab", "with --tokenizer");
    if (o.resume) cli_no_effect(options, "--overwrite", "with --resume");
    NEED(n_files || !access(no_file, R_OK), "which text? (--help says more)");
    if (!n_files) files[n_files++] = no_file;        /* in the place of an option, or of NULL */
    for (int i = 0; i < n_files; i++) {
        TRY(!cli_can_open(files[i], &size, &error));
        n_token_files += cli_ends_in(files[i], ".tok");
    }
    if (*o.val) TRY(!cli_can_open(o.val, &size, &error));
    NEED(!n_token_files || n_token_files == n_files, "either texts or token files, not both");
    if (n_token_files) {
        cli_no_effect(options, "--vocab --tsv --special", "on token files");
        data = open_data(files, n_files, *o.val ? 0 : 0.1f, 0);
    }
    newest = o.memory ? 0 : cli_checkpoints(o.out, INT64_MAX, INT_MAX);
    NEED(!o.resume || newest || o.memory, "%s has no checkpoint to go on from", o.out);
    NEED(o.resume || o.overwrite || !newest, "%s has a checkpoint: give --resume to go on from it, "
         "or --overwrite to start anew", o.out);

    cli_texts texts = cli_texts_of(files, n_files, o.tsv, o.special);
    prepare(&texts);
    run.best = INFINITY;
    if (o.resume) resume();

    /* only now, when all but the texts has been checked, files are written */
    cli_make_directory(o.out);
    open_all_data(files, n_files, &texts);
    FILE *log = cli_open_log(o.out, run.step,
                             "step,tokens,train_loss,mtp_loss,balance,load_min,load_max,lr,"
                             "grad_norm,tokens_per_second,val_loss,val_bits_per_byte\n");
    cli_clean(o.out, run.step);
    if (tokenizer) TRY(!llm_tokenizer_save(tokenizer, o.out, &error));

    print_start();
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    print_end(argv[0], train(log));
    NEED(!fflush(stdout) && !ferror(stdout), "standard output: %s", strerror(errno));
    fclose(log);
    free(x);
    free(token_bytes);
    llm_session_free(session);
    llm_trainer_free(trainer);
    llm_data_close(valid);
    llm_data_close(data);
    llm_model_free(model);
    llm_tokenizer_free(tokenizer);
    return 0;
}
