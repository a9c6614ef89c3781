/* claims.c -- one run of tools/results.py --only claims: trains one small model on a text, and
 * writes what it loses on text that it has not seen.
 *
 *     cc -O2 tools/claims.c -lm -o build/claims
 *     build/claims --text llm.h --vocab 1024 --mtp 1 --log run.csv     (--help lists the options)
 *     build/claims --speculate model --text llm.h --vocab 1024         decodes with what it saved
 *     build/claims --presets                                           caches of all presets
 *
 * The text is cut into 100 parts: the 10th, 30th, .. are to choose a learning rate by, the 20th,
 * 40th, .. are held out for what is reported, and the other 90 are learned. Update s = 0, 1, ..
 * takes B windows of T + 1 tokens; window i begins at llm_random(seed, s B + i) modulo the places
 * there are: so runs with the same seed see the same data, whatever their model.
 * The log has a line per evaluation, all of the main head alone, without balance and MTP: held_nats
 * per token and held_bits per byte, on windows spread evenly over the part that is held out;
 * train_nats and the loads of the most and least used expert, means over the updates since the line
 * before. In the last line there are end_nats and end_bits, on more of those windows, and
 * choose_nats. Nothing but its seconds, those spent in updates, depends on the machine's load.
 */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"

enum { PARTS = 100, LEARN = 0, CHOOSE = 1, HELD = 2 };

static const char *text_path, *log_path, *save_path, *spoken;
static int vocab, arch, layers, heads, width, ffn, head, rope, q_rank, kv_rank;
static int experts, active, shared, expert_ffn, dense, mtp;
static int seq, batch, steps, warmup, seed, evals, windows, threads, prompts, turns;
static int describe, presets, serve;
static double lr, lambda, gamma_speed, alpha;
static cli_option options[] = {
    CLI_HEAD("text"),
    CLI_STRING("--text", &text_path, "llm.h", "the file to learn"),
    CLI_WHOLE("--vocab", &vocab, "0", 0, "tokens of BPE, learned from what is learned; 0 = each "
              "byte that occurs is one"),
    CLI_HEAD("model, heads and embedding tied"),
    CLI_CHOICE("--arch", &arch, "gpt2|deepseek", "the family"),
    CLI_WHOLE("--layers", &layers, "4", 1, "blocks"),
    CLI_WHOLE("--heads", &heads, "4", 1, "of attention"),
    CLI_WHOLE("--width", &width, "192", 16, "of the stream"),
    CLI_WHOLE("--ffn", &ffn, "768", 1, "inner width of a dense feed-forward layer"),
    CLI_WHOLE("--head", &head, "width/heads", 1, "width of a head's values and unrotated keys"),
    CLI_WHOLE("--rope", &rope, "half of --head", 2, "width of the rotated key"),
    CLI_WHOLE("--q-rank", &q_rank, "0", 0, "of queries; 0 = full"),
    CLI_WHOLE("--kv-rank", &kv_rank, "width/4", 1, "of the latent vector of keys and values"),
    CLI_WHOLE("--experts", &experts, "0", 0, "routed ones of a layer; 0 = none"),
    CLI_WHOLE("--active", &active, "2", 1, "of them for a token"),
    CLI_WHOLE("--shared", &shared, "1", 0, "experts for every token"),
    CLI_WHOLE("--expert-ffn", &expert_ffn, "128", 1, "inner width of an expert"),
    CLI_WHOLE("--dense", &dense, "1", 0, "first layers without experts"),
    CLI_WHOLE("--mtp", &mtp, "0", 0, "modules that predict further tokens"),
    CLI_HEAD("training"),
    CLI_WHOLE("--seq", &seq, "128", 2, "tokens of a window, T"),
    CLI_WHOLE("--batch", &batch, "8", 1, "windows of an update, B"),
    CLI_WHOLE("--steps", &steps, "1000", 1, "updates"),
    CLI_NUMBER("--lr", &lr, "1e-3", 1e-9, 1e3, "the highest, after warm-up; it falls to a tenth as "
               "a cosine"),
    CLI_WHOLE("--warmup", &warmup, "50", 0, "updates until the highest"),
    CLI_NUMBER("--lambda", &lambda, "0.3", 0, 1e3, "weight of MTP's losses"),
    CLI_NUMBER("--gamma", &gamma_speed, "0.001", 0, 1e3, "speed of the router's biases"),
    CLI_NUMBER("--alpha", &alpha, "0.0001", 0, 1e3, "weight of the balance loss of a sequence"),
    CLI_WHOLE("--seed", &seed, "1", 0, "of weights and batches"),
    CLI_WHOLE("--evals", &evals, "10", 1, "evaluations, evenly spread, the last at the end"),
    CLI_WHOLE("--windows", &windows, "32", 1, "of an evaluation; at the end eight times as many, "
              "too, and half of that to choose by"),
    CLI_WHOLE("--threads", &threads, "0", 0, "0 = all cores"),
    CLI_STRING("--log", &log_path, "", "file for the evaluations; without, the standard output"),
    CLI_STRING("--save", &save_path, "", "directory for the model"),
    CLI_HEAD("or, in place of training"),
    CLI_STRING("--speculate", &spoken, "", "a saved model goes on with prompts of the part that is "
               "held out, with its MTP modules and without, in turns"),
    CLI_WHOLE("--prompts", &prompts, "32", 1, "of them; each is a quarter of the context, and the "
              "rest is written"),
    CLI_WHOLE("--turns", &turns, "3", 1, "of each; the fastest counts"),
    CLI_SWITCH("--describe", &describe, "numbers of parameters and the cache, and end"),
    CLI_SWITCH("--presets", &presets, "a line per preset: what its cache holds for a token, and "
               "what multi-head attention's would, in bytes of f32"),
    CLI_SWITCH("--serve", &serve, "updates when the standard input asks for them, for others to "
               "time: of each its seconds, and those of all processors together"),
    CLI_END
};

/* ---- the text -------------------------------------------------------------------------------- */
typedef struct text {
    int32_t *tokens[3];                /* to learn, to choose by, held out                        */
    size_t n[3];
    int *bytes;                        /* of each token                                           */
    int vocab_size;
} text;

/* which of the three a byte of the text belongs to */
static int part_of(size_t at, size_t n) {
    const size_t part = (size_t)((double)at * PARTS / (double)n);
    return part % 20 == 9 ? CHOOSE : part % 20 == 19 ? HELD : LEARN;
}
static void characters(text *t, unsigned char *const parts[3]) {
    int32_t token_of[256];
    memset(token_of, 0, sizeof token_of);
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < t->n[k]; i++) token_of[parts[k][i]] = 1;
    for (int c = 0; c < 256; c++)
        if (token_of[c]) token_of[c] = t->vocab_size++;
    t->bytes = (int *)cli_alloc((size_t)t->vocab_size, sizeof *t->bytes);
    for (int c = 0; c < t->vocab_size; c++) t->bytes[c] = 1;
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < t->n[k]; i++) t->tokens[k][i] = token_of[parts[k][i]];
}
static void pieces(text *t, unsigned char *const parts[3]) {
    llm_tokenizer *tokenizer =
        llm_tokenizer_train((const char *)parts[LEARN], t->n[LEARN], vocab, NULL, &error);
    TRY(tokenizer);
    for (int k = 0; k < 3; k++)
        TRY(!llm_tokenizer_encode(tokenizer, (const char *)parts[k], t->n[k], 0, t->tokens[k],
                                  t->n[k], &t->n[k], &error));
    t->vocab_size = llm_tokenizer_vocab_size(tokenizer);
    t->bytes = cli_token_bytes(tokenizer, t->vocab_size);
    llm_tokenizer_free(tokenizer);
}
static text read_text(void) {
    text t = {.vocab_size = 0};
    unsigned char *parts[3];
    size_t n;
    char *data = cli_read(text_path, &n);
    for (int k = 0; k < 3; k++) {
        parts[k] = (unsigned char *)cli_alloc(n, 1);
        t.tokens[k] = (int32_t *)cli_alloc(n, sizeof(int32_t));
    }
    for (size_t i = 0; i < n; i++) {
        const int k = part_of(i, n);
        parts[k][t.n[k]++] = (unsigned char)data[i];
    }
    if (vocab) pieces(&t, parts);
    else characters(&t, parts);
    for (int k = 0; k < 3; k++) {
        NEED(t.n[k] > (size_t)seq + 1, "%s: too short for windows in each part", text_path);
        free(parts[k]);
    }
    free(data);
    return t;
}

/* ---- model and training ---------------------------------------------------------------------- */
static llm_config config_of(int vocab_size) {
    llm_config c;
    memset(&c, 0, sizeof c);
    NEED(width % heads == 0, "--width %d is not a multiple of %d heads", width, heads);
    c.arch = arch ? LLM_ARCH_DEEPSEEK_V3 : LLM_ARCH_GPT2;
    c.vocab_size = vocab_size;
    c.max_seq_len = seq;
    c.d_model = width;
    c.n_layers = layers;
    c.n_heads = heads;
    c.d_ffn = ffn;
    c.tie_embeddings = 1;
    if (!arch) return c;
    c.q_lora_rank = q_rank;
    c.kv_lora_rank = kv_rank ? kv_rank : width / 4;
    c.qk_nope_head_dim = c.v_head_dim = head ? head : width / heads;
    c.qk_rope_head_dim = rope ? rope : (c.v_head_dim / 2 + 1) / 2 * 2;
    c.mtp_depth = mtp;
    c.n_routed_experts = experts;
    if (!experts) return c;
    c.num_experts_per_tok = active;
    c.n_shared_experts = shared;
    c.moe_d_ffn = expert_ffn;
    c.first_k_dense = dense;
    c.norm_topk_prob = 1;
    return c;
}

typedef struct training {
    llm_train_desc desc;
    llm_trainer *trainer;
    text text;
    int32_t *tokens, *targets;         /* (B,T) */
    FILE *log;
    int step;
    double seconds;                    /* in updates */
    cli_mean loss, most, least;        /* of the updates since the last evaluation */
} training;

/* on n windows spread evenly over a part, or as many as stand side by side */
static cli_losses evaluate(training *t, int part, int n) {
    const size_t T = (size_t)t->desc.seq_len, room = t->text.n[part] - T - 1;
    const int all = (int)(room / T) + 1, B = t->desc.batch_size;
    cli_losses l = {.bytes = 0};
    if (n > all) n = all;
    for (int i = 0; i < n; i += B) {
        const int rows = n - i < B ? n - i : B;
        for (int b = 0; b < rows; b++) {
            const size_t at = n > 1 ? room * (size_t)(i + b) / (size_t)(n - 1) : 0;
            memcpy(t->tokens + (size_t)b * T, t->text.tokens[part] + at, T * sizeof(int32_t));
            memcpy(t->targets + (size_t)b * T, t->text.tokens[part] + at + 1, T * sizeof(int32_t));
        }
        TRY(!llm_trainer_evaluate(t->trainer, t->tokens, t->targets, rows, (int)T, &l.last,
                                  &error));
        cli_add_losses(&l);
        cli_add_bytes(&l, t->text.bytes, t->targets, rows * (int)T);
    }
    return l;
}
static void log_line(training *t) {
    const int end = t->step == t->desc.max_steps;
    const cli_losses held = evaluate(t, HELD, windows);
    fprintf(t->log, "%d,%.3f,%.6f,%.6f,%.6f,%.4f,%.4f,", t->step, t->seconds,
            cli_mean_of(t->loss), cli_mean_of(held.main), cli_bits_per_byte(&held),
            cli_mean_of(t->most), cli_mean_of(t->least));
    if (end) {
        const cli_losses all = evaluate(t, HELD, 8 * windows),
                         choose = evaluate(t, CHOOSE, 4 * windows);
        fprintf(t->log, "%.6f,%.6f,%.6f\n", cli_mean_of(all.main), cli_bits_per_byte(&all),
                cli_mean_of(choose.main));
    } else {
        fprintf(t->log, ",,\n");
    }
    NEED(!fflush(t->log), "%s: %s", log_path, strerror(errno));
    memset(&t->loss, 0, sizeof t->loss);
    memset(&t->most, 0, sizeof t->most);
    memset(&t->least, 0, sizeof t->least);
}
/* one update -> its seconds */
static double step(training *t) {
    const size_t T = (size_t)t->desc.seq_len;
    const uint64_t B = (uint64_t)t->desc.batch_size, places = t->text.n[LEARN] - T;
    const double start = cli_seconds();
    llm_train_stats stats;
    for (uint64_t i = 0; i < B; i++) {
        const uint64_t at = llm_random((uint64_t)seed, (uint64_t)t->step * B + i) % places;
        memcpy(t->tokens + i * T, t->text.tokens[LEARN] + at, T * sizeof(int32_t));
        memcpy(t->targets + i * T, t->text.tokens[LEARN] + at + 1, T * sizeof(int32_t));
    }
    TRY(!llm_trainer_step(t->trainer, t->tokens, t->targets, &stats, &error));
    const double seconds = cli_seconds() - start;
    cli_weigh(&t->loss, stats.main_loss, 1);
    cli_weigh(&t->most, stats.expert_load_max, 1);
    cli_weigh(&t->least, stats.expert_load_min, 1);
    t->seconds += seconds;
    t->step++;
    return seconds;
}
static void train(training *t) {
    for (int i = 1; i <= evals; i++) {
        const int until = (int)((int64_t)steps * i / evals);
        if (until == t->step) continue;
        while (t->step < until) step(t);
        log_line(t);
    }
}

/* cli_serve, with a line for the processors' time, too, which other programs do not add to */
static void answer(training *t) {
    char line[64];
    step(t);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        for (int n = atoi(line); n > 0; n--) {
            const clock_t before = clock();
            const double seconds = step(t);
            printf("%.6f\n%.6f\n", seconds, (double)(clock() - before) / CLOCKS_PER_SEC);
        }
        printf("done\n");
        fflush(stdout);
    }
}

/* ---- decoding with MTP modules and without --------------------------------------------------- */
static void speak(const text *t) {
    const llm_model_desc model_desc = {.n_threads = threads};
    llm_model *model = llm_model_load(spoken, &model_desc, &error);
    TRY(model);
    const llm_config *c = llm_model_config(model);
    const llm_session_desc session_desc = {.speculate = 1};
    llm_session *session = llm_session_create(model, &session_desc, &error);
    TRY(session);
    const int n_prompt = c->max_seq_len / 4, n_new = c->max_seq_len - n_prompt;
    int32_t *tokens[2];
    NEED(t->vocab_size == c->vocab_size && t->n[HELD] > (size_t)n_prompt, "%s: of another text",
         spoken);
    for (int s = 0; s < 2; s++) tokens[s] = (int32_t *)cli_alloc((size_t)n_new, sizeof(int32_t));
    printf("temperature,tokens,drafted,accepted,plain_seconds,speculated_seconds\n");
    for (int warm = 0; warm < 2; warm++) {
        int64_t written = 0, drafted = 0, accepted = 0;
        double seconds[2] = {0, 0};
        for (int p = 0; p < prompts; p++) {
            const size_t at = (t->n[HELD] - (size_t)n_prompt) * (size_t)p / (size_t)prompts;
            double best[2] = {INFINITY, INFINITY};
            llm_generate_stats stats[2];
            for (int turn = 0; turn < 2 * turns; turn++) {
                const int s = (turn ^ turn / 2) & 1;       /* 0 1 1 0 0 1 .. */
                const llm_generate_desc desc = {
                    .sampling = {.temperature = warm ? 0.8f : 0, .seed = (uint64_t)(seed + p)},
                    .max_new_tokens = n_new, .n_stop_tokens = -1, .speculate = s};
                TRY(!llm_session_rewind(session, 0, 0, &error));
                TRY(!llm_generate(session, t->tokens[HELD] + at, n_prompt, &desc, tokens[s], n_new,
                                  &stats[s], &error));
                best[s] = fmin(best[s], stats[s].decode_seconds);
            }
            NEED(!memcmp(tokens[0], tokens[1], (size_t)n_new * sizeof(int32_t)),
                 "prompt %d: speculation wrote other tokens", p);
            for (int s = 0; s < 2; s++) seconds[s] += best[s];
            written += stats[1].n_generated;
            drafted += stats[1].n_drafted;
            accepted += stats[1].n_accepted;
        }
        printf("%s,%lld,%lld,%lld,%.6f,%.6f\n", warm ? "0.8" : "0", (long long)written,
               (long long)drafted, (long long)accepted, seconds[0], seconds[1]);
    }
    for (int s = 0; s < 2; s++) free(tokens[s]);
    llm_session_free(session);
    llm_model_free(model);
}

/* ---- sizes ----------------------------------------------------------------------------------- */
static size_t cache_bytes(const llm_config *c) { return llm_config_cache_bytes(c, 1, LLM_F32); }

/* Multi-head attention in the same layers has H keys and H values of v_head_dim: 2 L H v_head_dim;
 * if its keys are as wide as those that MLA makes of the latent vector, more: with_rope. */
static void print_presets(void) {
    printf("preset,layers,heads,latent,rope,head,bytes,multi_head_bytes,with_rope_bytes\n");
    for (int i = 0; llm_config_preset_name(i); i++) {
        llm_config c;
        TRY(!llm_config_preset(&c, llm_config_preset_name(i), &error));
        const int gpt2 = c.arch == LLM_ARCH_GPT2, v = gpt2 ? c.d_model / c.n_heads : c.v_head_dim;
        const int qk = gpt2 ? v : c.qk_nope_head_dim + c.qk_rope_head_dim;
        const int all = c.n_layers * c.n_heads * (int)sizeof(float);
        printf("%s,%d,%d,%d,%d,%d,%llu,%d,%d\n", llm_config_preset_name(i), c.n_layers, c.n_heads,
               c.kv_lora_rank, c.qk_rope_head_dim, v, (unsigned long long)cache_bytes(&c),
               2 * all * v, all * (qk + v));
    }
}
static void print_sizes(const llm_config *c, const text *t) {
    const double all = (double)llm_config_param_count(c);
    double bytes = 0;
    for (size_t i = 0; i < t->n[HELD]; i++) bytes += t->bytes[t->tokens[HELD][i]];
    printf("parameters %.0f\nactive %.0f\nmtp %.0f\ncache_bytes %.0f\nvocab %d\nlearn %.0f\n"
           "held %.0f\nbytes_per_token %.4f\n", all, (double)llm_config_active_param_count(c),
           (double)llm_config_mtp_param_count(c), (double)cache_bytes(c), t->vocab_size,
           (double)t->n[LEARN], (double)t->n[HELD], bytes / (double)t->n[HELD]);
}

int main(int argc, char **argv) {
    training t = {.step = 0};
    cli_program = "claims";
    const int n_files = cli_read_options(options, argv + (argc > 0),
                                         "usage: claims [OPTION]...\n");
    if (n_files < 0) return 0;
    NEED(!n_files, "%s: not an option; the text is --text", argv[1]);
    if (presets) {
        print_presets();
        return 0;
    }
    t.text = read_text();
    if (*spoken) {
        speak(&t.text);
        cli_check_output();
        return 0;
    }
    const llm_config config = config_of(t.text.vocab_size);
    TRY(!llm_config_validate(&config, &error));
    if (describe) {
        print_sizes(&config, &t.text);
        return 0;
    }
    t.desc = (llm_train_desc){
        .batch_size = batch, .seq_len = seq, .learning_rate = (float)lr, .max_steps = steps,
        .warmup_steps = warmup < steps ? warmup : steps / 2, .beta2 = 0.99f,
        .mtp_lambda = cli_or_off(lambda), .router_bias_speed = cli_or_off(gamma_speed),
        .router_aux_alpha = cli_or_off(alpha)};
    const llm_model_desc desc = {.seed = (uint64_t)seed, .n_threads = threads};
    llm_model *model = llm_model_create(&config, &desc, &error);
    TRY(model);
    TRY(t.trainer = llm_trainer_create(model, &t.desc, &error));
    const size_t n = (size_t)batch * (size_t)seq;
    t.tokens = (int32_t *)cli_alloc(2 * n, sizeof *t.tokens);
    t.targets = t.tokens + n;
    if (serve) {
        answer(&t);
    } else {
        t.log = *log_path ? fopen(log_path, "w") : stdout;
        NEED(t.log, "%s: %s", log_path, strerror(errno));
        fprintf(t.log, "update,seconds,train_nats,held_nats,held_bits,load_max,load_min,"
                       "end_nats,end_bits,choose_nats\n");
        train(&t);
        NEED(t.log == stdout || !fclose(t.log), "%s: %s", log_path, strerror(errno));
        if (*save_path) {
            cli_make_directory(save_path);
            TRY(!llm_model_save(model, save_path, LLM_F32, &error));
        }
    }
    llm_trainer_free(t.trainer);
    llm_model_free(model);
    for (int k = 0; k < 3; k++) free(t.text.tokens[k]);
    free(t.text.bytes);
    free(t.tokens);
    return 0;
}
