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

/* ---- options --------------------------------------------------------------------------------- */
static struct {
    const char *out, *val, *tokenizer, *from;
    int tsv, special, vocab, eval, windows, save, keep, resume, overwrite, stop_at, list, memory;
    double seconds;
    cli_model model;                                 /* --arch, --preset, --layers, ... */
    cli_training train;                              /* --seq, --batch, --lr, ... */
} o = {.seconds = INFINITY};
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
    CLI_WHOLE("--accumulate", &o.train.accumulate, "1", 1, "how many such batches make an update"),
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

/* ---- what is trained ------------------------------------------------------------------------- */
static struct progress {                             /* kept in checkpoints */
    long long step, best_step, batch, skipped;       /* batches read; updates left out */
    cli_training train;                              /* its options */
    double best, seconds;                            /* loss of best_step; so far, all runs */
    uint64_t data[2];                                /* fingerprints: to learn, to validate */
} run = {.best = INFINITY};
static llm_tokenizer *tokenizer;                     /* NULL: token files, and none is given */
static llm_model *model;
static llm_trainer *trainer;
static llm_data *data, *valid;
static int *token_bytes;                             /* of each token; NULL without a tokenizer */
static double bits_per_nat;                          /* per byte, in validation; 0 = not known */
static int32_t *x, *y;                               /* a batch: tokens, and those that follow */

/* Learns the tokenizer or loads it, makes the model, whose vocabulary is the tokenizer's, and its
 * trainer, and goes on from a checkpoint. */
static void prepare(const cli_texts *texts) {
    const char *given = *o.tokenizer ? o.tokenizer : o.from;
    const size_t n = (size_t)o.train.batch * (size_t)o.train.seq;
    llm_train_desc desc = cli_train_desc(options, &o.train);
    llm_config config;
    llm_memory memory;
    if (texts->n_tokens) data = cli_open_data(texts, &o.train, *o.val ? 0 : 0.1f, 0);
    if (!*given && o.resume && !data && !o.memory) given = o.out;
    if (*given || !o.memory) tokenizer = cli_tokenizer(given, texts, o.vocab);
    const int V = data ? llm_data_vocab_size(data)
                       : tokenizer ? llm_tokenizer_vocab_size(tokenizer) : o.vocab;
    token_bytes = cli_token_bytes(tokenizer, V);
    if (*o.from) {
        const llm_model_desc model_desc = {.n_threads = o.train.threads, .dtype = LLM_F32};
        TRY(model = llm_model_load(o.from, &model_desc, &error));
        config = *llm_model_config(model);
        NEED(V <= config.vocab_size, "%s has a vocabulary of %d, the data of %d", o.from,
             config.vocab_size, V);
        NEED(o.train.seq <= config.max_seq_len, "--seq %d: %s has a context of %d", o.train.seq,
             o.from, config.max_seq_len);
    } else {
        config = cli_new_config(&o.model, V, o.train.seq);
    }
    desc.prolong = o.resume;
    if (cli_given(options, "--dropout")) desc.dropout = cli_or_off(o.model.dropout);
    TRY(!llm_train_memory(&config, &desc, &memory, &error));
    if (o.memory) exit(cli_print_memory(&memory));
    if (!model) model = cli_new_model(&config, &o.train, tokenizer);
    TRY(trainer = llm_trainer_create(model, &desc, &error));
    x = (int32_t *)cli_alloc(2 * n, sizeof *x);
    y = x + n;
    if (!o.resume) return;
    cli_load_checkpoint(trainer, o.out, &run, sizeof run);
    cli_same(options, "--steps --batch --accumulate --lr --min-lr --schedule --warmup", &o.train,
             &run.train);
    NEED(run.step < o.train.steps || cli_given(options, "--steps"), "%s has had its %d updates: "
         "--steps with a larger number goes on", o.out, o.train.steps);
    run.batch = (run.batch * run.train.batch + o.train.batch - 1) / o.train.batch;
}
/* texts become token files in OUT; a run that goes on has to find what it had */
static void open_all_data(cli_texts *texts, cli_texts *val) {
    const llm_special_tokens special = llm_model_special_tokens(model);
    cli_write_tokens(texts, tokenizer, special, o.out, "data.tok");
    if (!data) data = cli_open_data(texts, &o.train, *o.val ? 0 : 0.1f, 0);
    NEED(val->n_tokens || tokenizer, "--val %s: a text, but no tokenizer: give --tokenizer", o.val);
    cli_write_tokens(val, tokenizer, special, o.out, "val.tok");
    valid = cli_open_data(val, &o.train, *o.val ? 0 : 0.1f, 1);
    const uint64_t found[2] = {llm_data_fingerprint(data), llm_data_fingerprint(valid)};
    const int V = llm_data_vocab_size(data), other = llm_data_vocab_size(valid);
    NEED(V == other, "%s: of a vocabulary of %d, not %d", o.val, other, V);
    NEED(!run.step || !memcmp(run.data, found, sizeof found),
         "%s was made with other data: the files have changed, or their order",
         cli_checkpoint(o.out, run.step));
    memcpy(run.data, found, sizeof found);
}
/* with the files that transformers has beside a tokenizer, as they were */
static void save_model(const char *path) {
    cli_save(model, tokenizer, path);
    if (*o.from) cli_copy(o.from, path, "generation_config.json");
    if (*o.tokenizer || *o.from) cli_copy_tokenizer(*o.tokenizer ? o.tokenizer : o.from, path);
}
static void save_checkpoint(FILE *log) {
    fsync(fileno(log));                              /* no row is missing where a run goes on */
    run.train = o.train;
    TRY(!llm_trainer_set_user_data(trainer, &run, sizeof run, &error));
    TRY(!llm_trainer_save(trainer, cli_checkpoint(o.out, run.step), &error));
    cli_checkpoints(o.out, run.step + 1, o.keep);
    save_model(o.out);
}

/* The next update, of --accumulate batches. 0: it was left out, as its loss is not finite or it has
 * no target; the update after it has other batches */
static int update(cli_losses *l) {
    static int bad;
    llm_result result = LLM_OK;
    memset(l, 0, sizeof *l);
    for (int i = 0; i < o.train.accumulate && !result; i++) {
        TRY(!llm_data_batch(data, run.batch++, x, y, &error));
        result = llm_trainer_step(trainer, x, y, &l->last, &error);
        cli_add_losses(l);
        cli_add_bytes(l, token_bytes, y, o.train.batch * o.train.seq);
    }
    TRY(!result || result == LLM_ERR_NUMERIC);
    bad = result ? bad + 1 : 0;
    NEED(bad < 10, "%s, ten times in a row: the training has left what can be computed. Start it "
         "anew with a smaller --lr or --clip, or a longer --warmup%s", error.message,
         o.train.precision ? ", or with --precision f32" : "");
    if (bad)
        cli_note("%s: update %lld leaves this batch out%s", error.message, run.step + 1,
                 bad > 1 ? "" : "; if it happens often, a smaller --lr or --clip, or a longer "
                 "--warmup may help");
    const int left_out = bad || l->last.skipped;
    run.skipped += left_out;
    run.step += !left_out;
    return !left_out;
}

/* ---- what is printed and logged -------------------------------------------------------------- */
static void print_start(void) {
    const double windows = (double)llm_data_window_count(data),
                 sequences = (double)o.train.batch * o.train.accumulate;
    const long long empty = llm_data_empty_count(data);
    cli_print_model(llm_model_config(model));
    printf("%lld tokens of a vocabulary of %d: %.0f sequences of %d to learn, %lld to validate\n",
           (long long)llm_data_token_count(data), llm_data_vocab_size(data), windows, o.train.seq,
           (long long)llm_data_window_count(valid));
    if (empty) printf("%lld more have nothing to learn, and are left out\n", empty);
    printf("%d updates of %.0f sequences read each %.2g times\n", o.train.steps, sequences,
           sequences * o.train.steps / windows);
    if (run.step) printf("going on after update %lld\n", run.step);
}
/* how it ended, and what to type next */
static void print_end(const char *program, int done) {
    const int better = run.best_step && run.best_step < run.step;
    if (done && run.step < o.train.steps) printf("the time is up: ");
    printf("%lld updates in %.0f s; the model is in %s", run.step, run.seconds, o.out);
    if (better) {
        printf(",\nthe best at validation (loss %.3f", run.best);
        if (bits_per_nat > 0) printf(", %.3f bits/byte", run.best * bits_per_nat);
        printf(", update %lld) in %s/best", run.best_step, o.out);
    }
    printf("\n");
    if (run.skipped) printf("%lld updates were left out\n", run.skipped);
    if (!done) printf("stopped: the same command with --resume goes on from here\n");
    cli_print_next(program, better ? cli_in(o.out, "best") : o.out, tokenizer != NULL);
}
/* the beginning of the validation part, up to the first target, and how the model goes on */
static void print_sample(void) {
    cli_stream out = cli_stream_of(tokenizer, llm_model_special_tokens(model), NULL, 0);
    const llm_generate_desc desc = {.sampling.temperature = 0.7f, .max_new_tokens = 60,
                                    .on_token = cli_print_token, .user = &out};
    const int context = llm_model_config(model)->max_seq_len;
    const llm_session_desc session_desc = {.max_seq_len = context < 128 ? context : 128};
    int n = 0;
    TRY(!llm_data_batch(valid, 0, x, y, &error));
    while (n + 1 < o.train.seq / 2 && (n < 8 || y[n - 1] < 0)) n++;
    printf("sample: ");
    for (int i = 0; i < n; i++) cli_print_token(x[i], &out);
    printf(" ==> ");
    llm_session *session = llm_session_create(model, &session_desc, &error);
    if (!session || llm_generate(session, x, n, &desc, NULL, 0, NULL, &error))
        cli_note("no sample: %s", error.message);
    cli_end_text(&out);
    llm_session_free(session);
    printf("\n");
}
static void add_progress(cli_line *line, const cli_losses *l, double rate) {
    cli_add_update(line, run.step, o.seconds < INFINITY ? 0 : o.train.steps, l, rate);
    if (llm_model_config(model)->mtp_depth) cli_add(line, "  mtp %.3f", cli_mean_of(l->mtp));
    if (l->most > 0) cli_add(line, "  load %.1f-%.1f", l->least, l->most);
    cli_add(line, "  lr %.1e  norm %.2f", l->last.learning_rate, l->last.grad_norm);
}
/* the columns of a row of log.csv up to those of the validation */
static void log_update(FILE *log, const cli_losses *l, double rate) {
    fprintf(log, "%lld,%lld,%.5f,%.5f,%.4g,%.3g,%.3g,%.4g,%.4g,%.0f,", run.step,
            (long long)l->last.tokens, cli_mean_of(l->main), cli_mean_of(l->mtp),
            cli_mean_of(l->balance), l->least, l->most, l->last.learning_rate, l->last.grad_norm,
            rate);
}
/* Validates, with batches that are spread over the validation part, of which the last may be a
 * smaller one, and keeps the model if it is the best so far. */
static void validate(FILE *log) {
    const int64_t B = o.train.batch, windows = llm_data_window_count(valid),
                  all = (windows + B - 1) / B, wanted = (o.windows + B - 1) / B,
                  n = wanted < all ? wanted : all;
    cli_losses l = {.bytes = 0};
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = all * i / n, left = windows - at * B;
        const int rows = (int)(left < B ? left : B);
        TRY(!llm_data_batch(valid, at, x, y, &error));
        TRY(!llm_trainer_evaluate(trainer, x, y, rows, o.train.seq, &l.last, &error));
        cli_add_losses(&l);
        cli_add_bytes(&l, token_bytes, y, rows * o.train.seq);
    }
    const double loss = cli_mean_of(l.main);
    fprintf(log, "%.5f,%.5f", loss, cli_bits_per_byte(&l));
    if (loss > 0) bits_per_nat = cli_bits_per_byte(&l) / loss;
    cli_end_line();
    printf("validation loss %.3f", loss);
    if (l.bytes) printf(" (%.3f bits/byte)", cli_bits_per_byte(&l));
    printf(", perplexity %.1f%s\n", exp(loss), loss < run.best ? ", the best so far" : "");
    if (loss < run.best) {
        run.best = loss;
        run.best_step = run.step;
        save_model(cli_in(o.out, "best"));
    }
    if (tokenizer) print_sample();
}

static volatile sig_atomic_t stopped;
static void stop(int number) {                       /* a second time, it ends the program */
    stopped = 1;
    signal(number, SIG_DFL);
}
/* -> 1: all updates are made, or the time is up; 0: stopped */
static int train(FILE *log) {
    const long long first = run.step,
                    end = o.stop_at && o.stop_at < o.train.steps ? o.stop_at : o.train.steps;
    const double start = cli_seconds(), before = run.seconds,
                 tokens = (double)o.train.batch * o.train.seq * o.train.accumulate;
    double now = start, updating = 0;                /* without validation, samples and saving */
    int done = first >= o.train.steps;
    cli_line line = {.n = 0};
    cli_losses l;
    while (run.step < end && !stopped && !done) {
        const double began = now;
        const int updated = update(&l);
        now = cli_seconds();
        updating += now - began;
        run.seconds = before + now - start;
        if (!updated) continue;
        done = run.step == o.train.steps || run.seconds > o.seconds;
        if (done || cli_due(&line)) {
            const double made = (double)(run.step - first),
                         left = (double)(end - run.step) * (now - start) / made;
            cli_bar(&line, fmax((double)run.step / (double)end, run.seconds / o.seconds),
                    done ? 0 : fmin(left, o.seconds - run.seconds));
            add_progress(&line, &l, made * tokens / updating);
            cli_show(&line, done);
        }
        log_update(log, &l, tokens / (now - began));
        if (done || (o.eval && run.step % o.eval == 0)) validate(log);
        else fputs(",", log);
        fprintf(log, ",%.5f\n", cli_bits_per_byte(&l));
        NEED(!fflush(log), "%s/log.csv: %s", o.out, strerror(errno));
        if (done || stopped || run.step == end || (o.save && run.step % o.save == 0))
            save_checkpoint(log);
        now = cli_seconds();
    }
    cli_end_line();
    return done;
}

int main(int argc, char **argv) {
    char **files = argv + (argc > 0);
    cli_program = "train";
    const int n_files = cli_read_options(options, files, usage);
    if (n_files < 0) return 0;
    if (o.list) return cli_list_presets();
    cli_check_training(options, &o.model, &o.train);
    if (*o.from)
        cli_no_effect(options, "--arch --preset --vocab --layers --heads --width --ffn --context",
                      "with --from");
    if (*o.tokenizer) cli_no_effect(options, "--vocab", "with --tokenizer");
    if (o.resume) cli_no_effect(options, "--overwrite", "with --resume");
    char *val_paths[] = {(char *)o.val, NULL};
    cli_texts texts = cli_texts_of(files, n_files, o.tsv, o.special), val = texts;
    if (*o.val) val = cli_texts_of(val_paths, 1, o.tsv, o.special);
    if (texts.n_tokens) cli_no_effect(options, "--vocab --tsv --special", "on token files");
    const int64_t newest = o.memory ? 0 : cli_checkpoints(o.out, INT64_MAX, 0);
    NEED(!o.resume || newest || o.memory, "%s has no checkpoint to go on from", o.out);
    NEED(o.resume || o.overwrite || !newest, "%s has a checkpoint: give --resume to go on from it, "
         "or --overwrite to start anew", o.out);

    prepare(&texts);
    /* only now, when all but the texts has been checked, files are written */
    open_all_data(&texts, *o.val ? &val : &texts);
    FILE *log = cli_open_log(o.out, run.step,
                             "step,tokens,train_loss,mtp_loss,balance,load_min,load_max,lr,"
                             "grad_norm,tokens_per_second,val_loss,val_bits_per_byte,"
                             "train_bits_per_byte\n");
    cli_checkpoints(o.out, run.step + 1, o.keep);
    if (tokenizer) TRY(!llm_tokenizer_save(tokenizer, o.out, &error));

    print_start();
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    print_end(argv[0], train(log));
    return 0;                                        /* which frees all with the process */
}
