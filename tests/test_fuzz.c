/* Fuzzing. A target is a function that takes any bytes and checks what has to hold whatever they
 * are. make test runs each on its own seeds and on what once failed, in tests/data/fuzz/TARGET-*;
 * make fuzz has libFuzzer look for more (LLM_FUZZ, below). Targets use build/files/fuzz. */
typedef struct fuzz_input {
    const unsigned char *data;
    size_t size;
} fuzz_input;

static unsigned fuzz_byte(fuzz_input *in) { /* 0 at the end */
    if (!in->size) return 0;
    in->size--;
    return *in->data++;
}
/* a part whose size stands before it, in two bytes */
static fuzz_input fuzz_part(fuzz_input *in) {
    const size_t want = fuzz_byte(in), size = want + 256 * fuzz_byte(in);
    fuzz_input part;
    part.data = in->data;
    part.size = llmi_min(size, in->size);
    in->data += part.size;
    in->size -= part.size;
    return part;
}
/* a copy of exactly its size, so that a sanitizer sees what is read beyond it */
static char *fuzz_copy(fuzz_input in) {
    char *copy = (char *)plain_alloc(in.size);
    if (in.size) memcpy(copy, in.data, in.size);
    return copy;
}
/* other values for some of a struct's words of four bytes */
static void fuzz_words(fuzz_input *in, void *object, size_t size) {
    static const float values[] = {0.0f,   -0.0f, 1.0f, -1.0f,   0.5f,    0.1f,   1e-8f,
                                   1e-30f, 1e30f, 2.0f, FLT_MAX, FLT_MIN, 0.999f, 1.001f};
    unsigned n;
    for (n = fuzz_byte(in) % 12; n; n--) {
        char *at = (char *)object + fuzz_byte(in) % (size / 4) * 4;
        const unsigned kind = fuzz_byte(in);
        uint32_t bits = kind;
        int i;
        if (kind >= 192)
            for (i = 0; i < 4; i++) bits = bits << 8 | fuzz_byte(in);
        else if (kind >= 128)
            memcpy(&bits, &values[kind % 14], 4);
        else if (kind >= 120)
            bits = kind - 124u;
        memcpy(at, &bits, sizeof bits);
    }
}

/* The heap of a target, which gives no large blocks. The first byte of an input says which
 * allocation fails: 0 = none. At the end everything is given back, and a failure has a message. */
static heap fuzz_heap;
static const llm_allocator *fuzz_begin(fuzz_input *in, llm_error *err) {
    const unsigned fail_at = fuzz_byte(in);
    heap_init(&fuzz_heap);
    fuzz_heap.limit = (size_t)1 << 26;
    if (fail_at) fuzz_heap.fail_at = (long)fail_at - 1;
    memset(err, 0, sizeof *err);
    return &fuzz_heap.allocator;
}
static void fuzz_end(int good, const llm_error *err) {
    CHECK(fuzz_heap.live == 0 && fuzz_heap.wrong == 0);
    CHECK(good ||
          (err->code != LLM_OK && err->message[0] && memchr(err->message, 0, sizeof err->message)));
    if (!good)
        CHECK(err->code != LLM_ERR_MEMORY || fuzz_heap.fail_at >= 0 ||
              fuzz_heap.largest > fuzz_heap.limit);
}
static int fuzz_accepted; /* inputs that were loaded or carried out */

/* what targets make once and use for all inputs */
static struct {
    llm_model *saved, *session[2];
    llm_tokenizer *text[3];
    llm_trainer *trainer, *untouched, *other;
    fuzz_input weights[2];
} fuzz_kept;
static void fuzz_forget(void) {
    int i;
    llm_model_free(fuzz_kept.saved);
    for (i = 0; i < 2; i++) {
        union {
            const unsigned char *read;
            void *owned;
        } weights;
        weights.read = fuzz_kept.weights[i].data;
        free(weights.owned);
        llm_model_free(fuzz_kept.session[i]);
    }
    for (i = 0; i < 3; i++) llm_tokenizer_free(fuzz_kept.text[i]);
    drop_trainer(fuzz_kept.trainer);
    drop_trainer(fuzz_kept.untouched);
    drop_trainer(fuzz_kept.other);
    memset(&fuzz_kept, 0, sizeof fuzz_kept);
}

static const char *fuzz_path(const char *name) {
    static char directory[256], path[300];
    if (!directory[0]) snprintf(directory, sizeof directory, "%s", files_directory("fuzz"));
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}
static void fuzz_write(const char *name, const void *data, size_t size) {
    FILE *file = fopen(fuzz_path(name), "wb");
    CHECK(file && fwrite(data, 1, size, file) == size);
    if (file) CHECK(fclose(file) == 0);
}

/* ---- JSON and models ------------------------------------------------------------------------- */
static void fuzz_json(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    char *text = fuzz_copy(in), *string = (char *)plain_alloc(in.size);
    llmi_json json;
    const llm_result result = llmi_json_parse(&json, text, in.size, "input", allocator, &err);
    int i;
    for (i = 0; result == LLM_OK && i < json.n_nodes; i++) {
        double number = 0.0;
        int64_t whole = 0;
        const int is_double = llmi_json_number(&json, i, &number);
        CHECK(json.nodes[i].begin <= json.nodes[i].end && json.nodes[i].end <= in.size);
        CHECK(json.nodes[i].next < json.n_nodes);
        CHECK(llmi_json_string(&json, i, string, in.size) <= in.size);
        if (llmi_json_int64(&json, i, &whole)) CHECK(is_double && number == (double)whole);
        (void)llmi_json_get(&json, i, "a");
        (void)llmi_json_is(&json, i, "abc");
    }
    if (result == LLM_OK) llmi_json_free(&json);
    fuzz_accepted += result == LLM_OK;
    fuzz_end(result == LLM_OK, &err);
    free(text);
    free(string);
}

static void fuzz_loaded(llm_model *model, llm_error *err) {
    const int32_t tokens[2] = {0, 0};
    const int good = model != NULL;
    if (model) {
        const llm_config *c = llm_model_config(model);
        const int T = c->max_seq_len > 1 ? 2 : 1;
        float *logits = (float *)plain_alloc((size_t)T * (size_t)c->vocab_size * sizeof(float));
        const llm_result result = llm_model_logits(model, tokens, 1, T, logits, err);
        CHECK(llm_config_validate(c, NULL) == LLM_OK);
        CHECK(result == LLM_OK || result == LLM_ERR_MEMORY);
        free(logits);
        fuzz_accepted++;
    }
    llm_model_free(model);
    fuzz_end(good, err);
}
static void fuzz_load(fuzz_input config, fuzz_input weights, const llm_allocator *allocator,
                      llm_error *err) {
    const llm_model_desc d = model_desc(0, 1, allocator);
    char *text = fuzz_copy(config), *bytes = fuzz_copy(weights);
    fuzz_loaded(llm_model_load_memory(text, config.size, bytes, weights.size, &d, err), err);
    free(text);
    free(bytes);
}
/* a small model of each kind, as its two files */
static fuzz_input fuzz_config_of(unsigned deepseek) {
    fuzz_input in;
    in.data = (const unsigned char *)(deepseek ? files_deepseek : files_gpt2);
    in.size = strlen((const char *)in.data);
    return in;
}
static fuzz_input fuzz_weights_of(unsigned deepseek) {
    fuzz_input *kept = &fuzz_kept.weights[deepseek];
    if (!kept->data) {
        const llm_config c = files_deepseek_config();
        llm_model *model = deepseek ? shaken_model(&c, 3, 1, NULL) : files_small(1, 3);
        kept->data = (const unsigned char *)files_pack_model(model, &kept->size);
        llm_model_free(model);
    }
    return *kept;
}
static void fuzz_safetensors(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    const unsigned kind = fuzz_byte(&in) & 1u;
    fuzz_load(fuzz_config_of(kind), in, allocator, &err);
}
static void fuzz_config(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    const unsigned kind = fuzz_byte(&in) & 1u;
    fuzz_load(in, fuzz_weights_of(kind), allocator, &err);
}
static void fuzz_model(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    const fuzz_input config = fuzz_part(&in);
    fuzz_load(config, in, allocator, &err);
}
/* a directory whose index and journal are any bytes. Nothing outside of it changes; a save into it
 * can be loaded whatever stood there. */
static void fuzz_directory(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    const llm_model_desc d = model_desc(0, 1, allocator);
    const unsigned how = fuzz_byte(&in);
    const fuzz_input index = fuzz_part(&in), config = fuzz_config_of(0),
                     weights = fuzz_weights_of(0);
    char directory[300];
    snprintf(directory, sizeof directory, "%s", fuzz_path(""));
    fuzz_write("../outside", "a", 1);
    fuzz_write("config.json", config.data, config.size);
    fuzz_write("a.safetensors", weights.data, weights.size);
    if (index.size)
        fuzz_write("model.safetensors.index.json", index.data, index.size);
    else
        remove(fuzz_path("model.safetensors.index.json"));
    if (in.size)
        fuzz_write("model.save.json", in.data, in.size);
    else
        remove(fuzz_path("model.save.json"));
    if (how & 1) fuzz_write("config.json.tmp", config.data, config.size);
    remove(fuzz_path("model.safetensors"));
    fuzz_loaded(llm_model_load(directory, &d, &err), &err);
    if (how & 2) {
        llm_model *again;
        if (!fuzz_kept.saved) fuzz_kept.saved = files_small(1, 5);
        CHECK_MSG(llm_model_save(fuzz_kept.saved, directory, LLM_F32, &err) == LLM_OK, "%s",
                  err.message);
        again = llm_model_load(directory, NULL, &err);
        CHECK_MSG(again && files_same_tensors(again, fuzz_kept.saved), "%s", err.message);
        llm_model_free(again);
    }
    remove(fuzz_path("config.json.tmp"));
    CHECK(remove(fuzz_path("../outside")) == 0);
}

/* ---- tokenizers ------------------------------------------------------------------------------ */
/* encodes; what is decoded from it, in as many bytes as it takes */
static char *fuzz_back(const llm_tokenizer *t, const char *text, size_t n, int special,
                       size_t *size) {
    int32_t *tokens = (int32_t *)plain_alloc((n + 1) * sizeof *tokens);
    size_t count = 0, i;
    char *back = NULL;
    llm_error err;
    const llm_result result =
        llm_tokenizer_encode(t, text, n, special, tokens, n + 1, &count, &err);
    *size = 0;
    if (result == LLM_OK) {
        int32_t *part = (int32_t *)plain_alloc(count / 2 * sizeof *part);
        size_t whole = 0;
        CHECK(count <= n + 1); /* a prefix space can be one more */
        for (i = 0; i < count; i++)
            CHECK(tokens[i] >= 0 && tokens[i] < llm_tokenizer_vocab_size(t));
        CHECK(llm_tokenizer_encode(t, text, n, special, part, count / 2, &whole, NULL) == LLM_OK);
        CHECK(whole == count && !memcmp(part, tokens, count / 2 * sizeof *part));
        free(part);
        CHECK(llm_tokenizer_decode(t, tokens, count, NULL, 0, size, NULL) == LLM_OK);
        back = (char *)plain_alloc(*size);
        CHECK(llm_tokenizer_decode(t, tokens, count, back, *size, &whole, NULL) == LLM_OK &&
              whole == *size);
    } else {
        CHECK(result == LLM_ERR_ARGUMENT || result == LLM_ERR_MEMORY ||
              result == LLM_ERR_UNSUPPORTED);
    }
    free(tokens);
    return back;
}
static void fuzz_tokenizer_use(llm_tokenizer *t, llm_error *err) {
    static const char text[] = "ab  abc\n <|endoftext|>ab\xc3\xa9 12345 don't\xff ABAD";
    const int good = t != NULL;
    if (t) {
        const int32_t ids[3] = {0, llm_tokenizer_vocab_size(t) - 1, llm_tokenizer_vocab_size(t)};
        size_t size;
        fuzz_accepted++;
        fuzz_heap.fail_at = -1;
        free(fuzz_back(t, text, sizeof text - 1, 0, &size));
        free(fuzz_back(t, text, sizeof text - 1, 1, &size));
        CHECK(llm_tokenizer_decode(t, ids, 3, NULL, 0, &size, NULL) == LLM_ERR_ARGUMENT);
        (void)llm_tokenizer_decode(t, ids, 2, NULL, 0, &size, NULL);
        CHECK(llm_tokenizer_token(t, text, sizeof text - 1) < llm_tokenizer_vocab_size(t));
    }
    llm_tokenizer_free(t);
    fuzz_end(good, err);
}
static void fuzz_tokenizer(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    char *text = fuzz_copy(in);
    fuzz_tokenizer_use(llm_tokenizer_load_memory(text, in.size, allocator, &err), &err);
    free(text);
}
static void fuzz_vocabulary(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    const fuzz_input vocabulary = fuzz_part(&in);
    char *text = fuzz_copy(vocabulary), *merges = fuzz_copy(in);
    fuzz_tokenizer_use(tokenizer_of(text, vocabulary.size, merges, in.size, allocator, &err), &err);
    free(text);
    free(merges);
}
/* a directory, each file with its size before it, an empty one absent. What is loaded can be saved,
 * and what is loaded of that makes the same of a text that holds all added tokens. */
static void fuzz_tokenizer_directory(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    llmi_bytes files[TOKENIZER_FILES];
    llmi_text text, saved;
    llm_tokenizer *t, *again = NULL;
    char *copies[TOKENIZER_FILES];
    int i, special, same = 1;
    for (i = 0; i < TOKENIZER_FILES; i++) {
        const fuzz_input part = fuzz_part(&in);
        copies[i] = fuzz_copy(part);
        files[i].data = part.size || i == 0 ? copies[i] : NULL;
        files[i].size = part.size;
    }
    t = tokenizer_of_files(files, allocator, &err);
    for (i = 0; i < TOKENIZER_FILES; i++) free(copies[i]);
    memset(&text, 0, sizeof text);
    memset(&saved, 0, sizeof saved);
    if (t) {
        llmi_text_add(&text, "ab hello", 8);
        for (i = 0; i < (int)t->n_added; i++)
            llmi_text_add(&text, t->added[i].content, t->added[i].size);
        llmi_bpe_write(&saved, t);
        CHECK(text.failed == LLM_OK && saved.failed == LLM_OK);
        again = llm_tokenizer_load_memory(saved.data, saved.size, NULL, NULL);
        CHECK(again && again->n_added == t->n_added);
    }
    for (special = 0; again && special < 2; special++) {
        size_t n, m;
        int32_t *a = bpe_encode(t, text.data, text.size, special, &n),
                *b = bpe_encode(again, text.data, text.size, special, &m);
        same = same && n == m && !memcmp(a, b, n * sizeof *a);
        free(a);
        free(b);
    }
    CHECK(same);
    for (special = 0; again && special < 2; special++) {
        int32_t a[8], b[8];
        const int n = llm_tokenizer_template(t, special, a);
        CHECK(n == llm_tokenizer_template(again, special, b) &&
              !memcmp(a, b, (size_t)n * sizeof *a));
        for (i = 0; i < n; i++) CHECK(a[i] >= 0 && a[i] < llm_tokenizer_vocab_size(t));
    }
    llm_tokenizer_free(again);
    llmi_text_free(&text);
    llmi_text_free(&saved);
    fuzz_tokenizer_use(t, &err);
}
/* one with DeepSeek-V3's patterns */
static llm_tokenizer *fuzz_deepseek(void) {
    static const char *const texts[] = {"\\p{N}{1,3}", LLMI_KANA, LLMI_DEEPSEEK("\r\n")};
    llm_tokenizer *t = llm_tokenizer_train("1234,1234,1234,1234 a.b .b .b", 29, 300, NULL, NULL),
                  *loaded;
    int i;
    llmi_patterns_free(&t->patterns);
    for (i = 0; i < 3; i++)
        CHECK(llmi_patterns_add(&t->patterns, LLMI_REGEX, texts[i], strlen(texts[i]),
                                LLMI_ISOLATED, 0, "", NULL) == LLM_OK);
    CHECK(llm_tokenizer_save(t, fuzz_path("deepseek.json"), NULL) == LLM_OK);
    loaded = llm_tokenizer_load(fuzz_path("deepseek.json"), NULL, NULL);
    llm_tokenizer_free(t);
    return loaded;
}
/* any text through some tokenizers, there and back; any ids */
static void fuzz_text(fuzz_input in) {
    llm_tokenizer **tokenizers = fuzz_kept.text;
    const unsigned how = fuzz_byte(&in), kind = how % 3;
    const int special = how >= 128;
    llm_tokenizer *t;
    char *text, *back;
    size_t size, i;
    if (!tokenizers[0]) {
        tokenizers[0] = llm_tokenizer_train("aaa abab don't 1234 \xc3\xa9\xc3\xa9 aaa abab  \n\n",
                                            33, 280, NULL, NULL);
        tokenizers[1] = llm_tokenizer_load(BPE_DATA "small.json", NULL, NULL);
        tokenizers[2] = fuzz_deepseek();
    }
    t = tokenizers[kind];
    CHECK(t);
    if (!t) return;
    text = fuzz_copy(in);
    back = fuzz_back(t, text, in.size, special, &size);
    CHECK(back);
    if (kind != 1) /* whose added tokens strip white space */
        CHECK(size == in.size && !memcmp(text, back, size));
    size = llm_utf8_complete(text, in.size);
    CHECK(size <= in.size && in.size - size < 4);
    for (i = 0; i + 1 < in.size; i += 2) {
        const int32_t id = (int32_t)in.data[i] + 256 * (int32_t)in.data[i + 1] - 1000;
        CHECK((llm_tokenizer_decode(t, &id, 1, NULL, 0, &size, NULL) == LLM_OK) ==
              (id >= 0 && id < llm_tokenizer_vocab_size(t)));
    }
    fuzz_accepted++;
    free(text);
    free(back);
}

/* ---- token files and checkpoints ------------------------------------------------------------- */
static void fuzz_tokens(fuzz_input in) {
    llm_data_desc d = data_desc(1, 2);
    llm_error err;
    llm_data *data;
    const char *path = fuzz_path("input.tok");
    int32_t tokens[64], targets[64];
    int step;
    fuzz_words(&in, &d, sizeof d);
    d.allocator = NULL;
    if (d.batch_size > 8 || d.seq_len > 8) return;
    fuzz_write("input.tok", in.data, in.size);
    memset(&err, 0, sizeof err);
    data = llm_data_open(&path, 1, &d, &err);
    CHECK(data || (err.code != LLM_OK && err.message[0]));
    for (step = 0; data && step < 3; step++) {
        const llm_result result = llm_data_batch(data, step, tokens, targets, &err);
        int i;
        CHECK(result == LLM_OK || result == LLM_ERR_FORMAT);
        for (i = 0; result == LLM_OK && i < d.batch_size * d.seq_len; i++)
            CHECK(tokens[i] >= 0 && tokens[i] < llm_data_vocab_size(data) &&
                  (targets[i] == LLM_IGNORE_INDEX ||
                   (targets[i] >= 0 && targets[i] < llm_data_vocab_size(data))));
    }
    if (data) {
        const llm_result result = llm_data_verify(data, &err);
        CHECK(result == LLM_OK || result == LLM_ERR_FORMAT);
        CHECK(llm_data_window_count(data) >= 1 &&
              llm_data_token_count(data) > llm_data_window_count(data));
        fuzz_accepted += result == LLM_OK;
    }
    llm_data_close(data);
}

static llm_trainer *fuzz_trainer(uint64_t seed) {
    const llm_config c = small_config(5, 4, 4, 1, 1);
    const llm_train_desc d = train_desc(1, 4, 1);
    const llm_model_desc m = model_desc(seed, 1, NULL);
    return llm_trainer_create(llm_model_create(&c, &m, NULL), &d, NULL);
}
/* A file that is loaded is that which was saved: its hash covers all but the header's text. Any
 * other leaves the trainer as it was. */
static void fuzz_checkpoint(fuzz_input in) {
    llm_error err;
    if (!fuzz_kept.trainer) {
        fuzz_kept.trainer = fuzz_trainer(1);
        fuzz_kept.untouched = fuzz_trainer(1);
        fuzz_kept.other = fuzz_trainer(2);
    }
    fuzz_write("input.ckpt", in.data, in.size);
    memset(&err, 0, sizeof err);
    if (llm_trainer_load(fuzz_kept.trainer, fuzz_path("input.ckpt"), &err) == LLM_OK) {
        fuzz_accepted++;
        CHECK(resume_equal(fuzz_kept.trainer, fuzz_kept.other));
        drop_trainer(fuzz_kept.trainer);
        fuzz_kept.trainer = fuzz_trainer(1);
    } else {
        CHECK(err.code != LLM_OK && err.message[0]);
        CHECK(resume_equal(fuzz_kept.trainer, fuzz_kept.untouched));
    }
}

/* ---- sessions -------------------------------------------------------------------------------- */
enum { FUZZ_CONTEXT = 24, FUZZ_VOCAB = 13 };
static llm_model *fuzz_session_model(unsigned deepseek) {
    llm_model **model = &fuzz_kept.session[deepseek];
    if (!*model) {
        const llm_config c = deepseek ? deepseek_config(1, 1, FUZZ_VOCAB, FUZZ_CONTEXT, 2)
                                      : small_config(FUZZ_VOCAB, FUZZ_CONTEXT, 8, 2, 2);
        *model = shaken_model(&c, 7, 1, NULL);
    }
    return *model;
}
static llm_session *fuzz_session_of(const llm_model *model, int sequences, int speculate) {
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.n_sequences = sequences;
    d.speculate = speculate;
    d.n_threads = 1;
    return llm_session_create(model, &d, NULL);
}
/* what a session must hold: the tokens of its sequences */
typedef struct fuzz_history {
    int32_t tokens[FUZZ_CONTEXT];
    int n;
} fuzz_history;

/* a fresh session that has seen the same tokens, one at a time */
static llm_session *fuzz_fresh(const llm_model *model, const fuzz_history *h) {
    llm_session *fresh = fuzz_session_of(model, 1, 0);
    int i;
    for (i = 0; i < h->n; i++)
        CHECK(llm_session_eval(fresh, 0, h->tokens + i, 1, NULL, NULL) == LLM_OK);
    return fresh;
}
static void fuzz_same_next(llm_session *s, int sequence, const llm_model *model,
                           const fuzz_history *h) {
    llm_session *fresh;
    float a[FUZZ_VOCAB], b[FUZZ_VOCAB];
    const int32_t token = 1;
    CHECK(llm_session_length(s, sequence) == h->n);
    if (h->n == FUZZ_CONTEXT) return;
    fresh = fuzz_fresh(model, h);
    CHECK(llm_session_eval(s, sequence, &token, 1, a, NULL) == LLM_OK);
    CHECK(llm_session_eval(fresh, 0, &token, 1, b, NULL) == LLM_OK);
    CHECK(same_bits(a, b, FUZZ_VOCAB));
    CHECK(llm_session_rewind(s, sequence, h->n, NULL) == LLM_OK);
    llm_session_free(fresh);
}
/* A generation: its tokens are those of a fresh session without drafts, as many as were wanted. */
static void fuzz_generate(fuzz_input *in, llm_session *s, const llm_model *model, int speculate,
                          fuzz_history *h) {
    int32_t prompt[16], tokens[FUZZ_CONTEXT], plain[FUZZ_CONTEXT], stops[1];
    llm_generate_desc d;
    llm_generate_stats stats, plain_stats;
    heard stop;
    llm_result result, plain_result;
    llm_session *fresh = fuzz_fresh(model, h);
    const int n = (int)(fuzz_byte(in) % 6), capacity = (int)(fuzz_byte(in) % FUZZ_CONTEXT);
    int i, length;
    memset(&d, 0, sizeof d);
    for (i = 0; i < n; i++) prompt[i] = (int32_t)(fuzz_byte(in) % FUZZ_VOCAB);
    d.max_new_tokens = (int)(fuzz_byte(in) % 12);
    d.sampling.temperature = (float)(fuzz_byte(in) % 3) * 0.7f;
    d.sampling.top_k = (int)(fuzz_byte(in) % 4) * 3;
    d.sampling.repetition_penalty = (float)(fuzz_byte(in) % 3) * 0.8f;
    d.sampling.seed = fuzz_byte(in);
    stops[0] = (int32_t)(fuzz_byte(in) % FUZZ_VOCAB);
    d.stop_tokens = stops;
    d.n_stop_tokens = (int)(fuzz_byte(in) & 1u);
    memset(&stop, 0, sizeof stop);
    stop.cancel_at = 1 + (int)fuzz_byte(in) % 16;
    d.on_token = on_token;
    d.user = &stop;
    d.speculate = speculate;
    result = llm_generate(s, prompt, n, &d, tokens, capacity, &stats, NULL);
    stop.n = 0;
    d.speculate = 0;
    plain_result = llm_generate(fresh, prompt, n, &d, plain, capacity, &plain_stats, NULL);
    CHECK(result == plain_result);
    if (result == LLM_OK || result == LLM_ERR_CANCELLED) {
        CHECK(stats.n_generated == plain_stats.n_generated && stats.n_accepted <= stats.n_drafted);
        CHECK(stats.n_generated <= capacity &&
              !memcmp(tokens, plain, (size_t)stats.n_generated * sizeof *tokens));
        CHECK(llm_session_length(s, 0) == llm_session_length(fresh, 0));
        length = llm_session_length(s, 0);
        CHECK(length >= h->n && length <= h->n + n + stats.n_generated && length <= FUZZ_CONTEXT);
        for (i = h->n; i < length; i++)
            h->tokens[i] = i - h->n < n ? prompt[i - h->n] : tokens[i - h->n - n];
        h->n = length;
    }
    llm_session_free(fresh);
}
static void fuzz_session(fuzz_input in) {
    const unsigned how = fuzz_byte(&in), deepseek = how & 1u;
    const int speculate = deepseek && (how & 2u), n_sequences = 1 + (int)(how >> 2) % 3;
    llm_model *model = fuzz_session_model(deepseek);
    llm_session *s = fuzz_session_of(model, n_sequences, speculate);
    fuzz_history h[3];
    int turn, i;
    CHECK(s);
    if (!s) return;
    memset(h, 0, sizeof h);
    for (turn = 0; turn < 12 && in.size; turn++) {
        const unsigned op = fuzz_byte(&in) % 5;
        const int q = (int)(fuzz_byte(&in) % 3), n = 1 + (int)(fuzz_byte(&in) % 16);
        int32_t tokens[16];
        if (op == 0) { /* eval */
            llm_result result;
            for (i = 0; i < n; i++) tokens[i] = (int32_t)(fuzz_byte(&in) % (FUZZ_VOCAB + (n == 1)));
            result = llm_session_eval(s, q, tokens, n, NULL, NULL);
            CHECK((result == LLM_OK) ==
                  (q < n_sequences && h[q].n + n <= FUZZ_CONTEXT && tokens[0] < FUZZ_VOCAB));
            for (i = 0; result == LLM_OK && i < n; i++) h[q].tokens[h[q].n++] = tokens[i];
        } else if (op == 1) { /* one token for each */
            llm_result result;
            int good = 1;
            for (i = 0; i < n_sequences; i++) {
                tokens[i] = (int32_t)(fuzz_byte(&in) % (FUZZ_VOCAB + 2)) - 1;
                good = good && tokens[i] < FUZZ_VOCAB && (tokens[i] < 0 || h[i].n < FUZZ_CONTEXT);
            }
            result = llm_session_eval_batch(s, tokens, NULL, NULL);
            CHECK((result == LLM_OK) == good);
            for (i = 0; result == LLM_OK && i < n_sequences; i++)
                if (tokens[i] >= 0) h[i].tokens[h[i].n++] = tokens[i];
        } else if (op == 2) {
            const int length = n - 2;
            const int good = q < n_sequences && length >= 0 && length <= h[q].n;
            CHECK((llm_session_rewind(s, q, length, NULL) == LLM_OK) == good);
            if (good) h[q].n = length;
        } else if (op == 3) {
            fuzz_generate(&in, s, model, speculate && (n & 1), &h[0]);
        } else if (q < n_sequences) {
            fuzz_same_next(s, q, model, &h[q]);
        }
        fuzz_accepted++;
    }
    for (i = 0; i < n_sequences; i++) fuzz_same_next(s, i, model, &h[i]);
    llm_session_free(s);
}

/* ---- what callers may ask for ---------------------------------------------------------------- */
static llm_config fuzz_base(unsigned kind) {
    llm_config c = small_config(7, 8, 8, 2, 2);
    if (kind % 2) {
        c = deepseek_config((int)(kind / 2 % 2), (int)(kind / 4 % 2), 7, 8, (int)(kind / 8 % 2));
        c.first_k_dense = 0;
    }
    return c;
}
static void fuzz_descs(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    llm_config c = fuzz_base(fuzz_byte(&in));
    llm_train_desc d = train_desc(1, 4, 1);
    llm_session_desc s;
    llm_generate_desc g;
    llm_memory memory;
    llm_model_desc m = model_desc(1, 1, allocator);
    llm_model *model = NULL;
    const int32_t tokens[64] = {0};
    int32_t fresh[8];
    llm_result planned;
    memset(&s, 0, sizeof s);
    memset(&g, 0, sizeof g);
    fuzz_words(&in, &c, sizeof c);
    fuzz_words(&in, &d, sizeof d);
    fuzz_words(&in, &s, sizeof s);
    fuzz_words(&in, &g.sampling, sizeof g.sampling);
    planned = llm_train_memory(&c, &d, &memory, NULL);
    CHECK((llm_config_param_count(&c) != 0) == (llm_config_validate(&c, &err) == LLM_OK));
    (void)llm_learning_rate(&d, 3);
    if (err.code == LLM_OK && llm_config_param_count(&c) < 200000)
        model = llm_model_create(&c, &m, &err);
    if (model) {
        llm_trainer *trainer = llm_trainer_create(model, &d, &err);
        llm_session *session;
        CHECK(trainer || err.code != LLM_OK);
        CHECK((planned == LLM_OK) == (trainer || err.code == LLM_ERR_MEMORY));
        if (trainer) {
            llm_train_stats stats;
            size_t count = 0;
            const float *weights = llm_trainer_weights(trainer, &count);
            CHECK(weights && count);
            if (trainer->desc.batch_size <= 8 && trainer->desc.seq_len <= 8) {
                const llm_result result = llm_trainer_step(trainer, tokens, tokens, &stats, &err);
                CHECK(result == LLM_OK || result == LLM_ERR_NUMERIC || result == LLM_ERR_ARGUMENT);
            }
            fuzz_accepted++;
        }
        llm_trainer_free(trainer);
        session = llm_session_create(model, &s, &err);
        CHECK(session || err.code != LLM_OK);
        if (session) {
            llm_generate_stats stats;
            const llm_result result = llm_generate(session, tokens, 1, &g, fresh, 3, &stats, &err);
            int i;
            CHECK(result == LLM_OK || result == LLM_ERR_NUMERIC || result == LLM_ERR_ARGUMENT);
            for (i = 0; result == LLM_OK && i < stats.n_generated; i++)
                CHECK(fresh[i] >= 0 && fresh[i] < c.vocab_size);
        }
        llm_session_free(session);
    }
    llm_model_free(model);
    CHECK(fuzz_heap.live == 0 && fuzz_heap.wrong == 0);
}

/* ---- GGUF files ------------------------------------------------------------------------------ */
static void fuzz_gguf(fuzz_input in) { /* the second byte: the type that is asked for */
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    llm_model_desc d = model_desc(0, 1, allocator);
    char *bytes;
    int good;
    d.dtype = (llm_dtype)(fuzz_byte(&in) % (LLM_Q6_K + 1));
    bytes = fuzz_copy(in);
    good = in.size < 4 || memcmp(bytes, "GGUF", 4) ? -1 : gguf_use_model(bytes, in.size, &d, &err);
    free(bytes);
    fuzz_accepted += good > 0;
    fuzz_end(good != 0, &err);
}
static void fuzz_gguf_tokenizer(fuzz_input in) {
    llm_error err;
    const llm_allocator *allocator = fuzz_begin(&in, &err);
    char *bytes = fuzz_copy(in);
    const int good = gguf_use_tokenizer(bytes, in.size, allocator, &err);
    free(bytes);
    fuzz_accepted += good;
    fuzz_end(good, &err);
}

/* ---- all of them ----------------------------------------------------------------------------- */
typedef struct fuzz_target {
    const char *name;
    void (*run)(fuzz_input in);
} fuzz_target;
static const fuzz_target fuzz_targets[] = {{"json", fuzz_json},
                                           {"safetensors", fuzz_safetensors},
                                           {"config", fuzz_config},
                                           {"model", fuzz_model},
                                           {"directory", fuzz_directory},
                                           {"tokenizer", fuzz_tokenizer},
                                           {"vocabulary", fuzz_vocabulary},
                                           {"added", fuzz_tokenizer_directory},
                                           {"text", fuzz_text},
                                           {"tokens", fuzz_tokens},
                                           {"checkpoint", fuzz_checkpoint},
                                           {"session", fuzz_session},
                                           {"gguf", fuzz_gguf},
                                           {"vocabulary_gguf", fuzz_gguf_tokenizer},
                                           {"descs", fuzz_descs}};
enum { FUZZ_TARGETS = sizeof fuzz_targets / sizeof fuzz_targets[0] };

/* ---- seeds ----------------------------------------------------------------------------------- */
typedef struct fuzz_seed {
    unsigned char data[1 << 16];
    size_t size;
} fuzz_seed;

static void fuzz_put(fuzz_seed *seed, const void *data, size_t size) {
    CHECK(size <= sizeof seed->data - seed->size);
    if (size) memcpy(seed->data + seed->size, data, size);
    seed->size += size;
}
static void fuzz_put_byte(fuzz_seed *seed, unsigned byte) {
    const unsigned char c = (unsigned char)byte;
    fuzz_put(seed, &c, 1);
}
static void fuzz_put_part(fuzz_seed *seed, const void *data, size_t size) {
    fuzz_put_byte(seed, (unsigned)size & 255u);
    fuzz_put_byte(seed, (unsigned)(size >> 8));
    fuzz_put(seed, data, size);
}
static void fuzz_put_file(fuzz_seed *seed, const char *directory, const char *name) {
    size_t size;
    char *data = files_read(directory, name, &size);
    CHECK(size > 0);
    fuzz_put(seed, data, size);
    free(data);
}

/* seed i of a target; 0 = there is none */
static int fuzz_make_seed(const char *target, unsigned i, fuzz_seed *seed) {
    static const char *const json[] = {"[1,-2.5e3,\"a\\u00e9\\ud83d\\ude00\",null]",
                                       "{\"a\":{\"abc\":[true,false,{}]},\"\":0}",
                                       "9223372036854775807", "\"\\n\xc3\xa9\"", "-0.1e-400"};
    static const char journal[] =
        "{\"files\": [\"config.json\"], \"remove\": [\"old.safetensors\"]}";
    static const char merges[] = "#version: 0.2\na b\r\nc ab\nab cab\n";
    static const char text[] = "don't ab 1234 \xc3\xa9\xe4\xb8\xad\n  <|endoftext|>ADD a.b\xff";
    static const unsigned char ops[][28] = {
        {0, 0, 0, 4, 1, 2, 3, 4, 5, 4, 0, 0, 2, 0, 3, 0, 0, 2, 7, 8, 9},
        {3, 3, 0, 0, 2, 9, 5, 6, 7, 0, 0, 0, 0, 0, 0, 15, 2, 0, 4, 3, 0, 2, 1, 9, 3, 2, 1},
        {11, 0, 0, 2, 1, 2, 3, 1, 0, 0, 3, 4, 5, 1, 0, 0, 6, 0, 7, 4, 1, 0, 3, 0, 1, 2, 9, 5}};
    seed->size = 0;
    if (!strcmp(target, "json")) {
        if (i >= sizeof json / sizeof json[0]) return 0;
        fuzz_put_byte(seed, 0);
        fuzz_put(seed, json[i], strlen(json[i]));
    } else if (!strcmp(target, "safetensors") || !strcmp(target, "config") ||
               !strcmp(target, "model")) {
        const fuzz_input config = fuzz_config_of(i % 2), weights = fuzz_weights_of(i % 2);
        if (i > 1) return 0;
        fuzz_put_byte(seed, 0);
        if (target[0] == 'm')
            fuzz_put_part(seed, config.data, config.size);
        else
            fuzz_put_byte(seed, i);
        if (target[0] == 'c')
            fuzz_put(seed, config.data, config.size);
        else
            fuzz_put(seed, weights.data, weights.size);
    } else if (!strcmp(target, "directory")) {
        llm_model *model;
        char index[2048];
        size_t k, n;
        if (i > 1) return 0;
        model = files_small(1, 3);
        n = (size_t)snprintf(index, sizeof index, "{\"weight_map\": {");
        for (k = 0; k < llm_model_tensor_count(model); k++)
            n += (size_t)snprintf(index + n, sizeof index - n, "%s\"%s\": \"a.safetensors\"",
                                  k ? ", " : "", llm_model_tensor(model, k).name);
        n += (size_t)snprintf(index + n, sizeof index - n, "}}");
        llm_model_free(model);
        fuzz_put_byte(seed, 0);
        fuzz_put_byte(seed, 3 * i);
        fuzz_put_part(seed, index, n);
        fuzz_put(seed, journal, i ? sizeof journal - 1 : 0);
    } else if (!strcmp(target, "tokenizer")) {
        if (i > 1) return 0;
        fuzz_put_byte(seed, 0);
        if (i == 0) {
            fuzz_put_file(seed, BPE_DATA, "small.json");
        } else {
            llm_tokenizer_free(fuzz_deepseek());
            fuzz_put_file(seed, fuzz_path(""), "deepseek.json");
        }
    } else if (!strcmp(target, "vocabulary")) {
        llmi_text vocabulary;
        if (i > 0) return 0;
        vocabulary = bpe_vocabulary();
        fuzz_put_byte(seed, 0);
        fuzz_put_part(seed, vocabulary.data, vocabulary.size);
        llmi_text_free(&vocabulary);
        fuzz_put(seed, merges, sizeof merges - 1);
    } else if (!strcmp(target, "added")) {
        llmi_text files[TOKENIZER_FILES];
        int k;
        if (i > 3) return 0;
        bpe_make(i < 2 ? &bpe_full : &bpe_decoder, "VT"[i % 2], files);
        fuzz_put_byte(seed, 0);
        for (k = 0; k < TOKENIZER_FILES; k++)
            fuzz_put_part(seed, files[k].data, files[k].size);
        bpe_unmake(files);
    } else if (!strcmp(target, "text")) {
        if (i > 5) return 0;
        fuzz_put_byte(seed, i % 3 + 126u + (i > 2 ? 3 : 0));
        fuzz_put(seed, text, sizeof text - 1);
    } else if (!strcmp(target, "tokens")) {
        static const int vocab[] = {7, 70000};
        if (i > 1) return 0;
        CHECK(data_write(fuzz_path("seed.tok"), 0, 20, vocab[i], 1, NULL) == LLM_OK);
        fuzz_put_byte(seed, 0);
        fuzz_put_file(seed, fuzz_path(""), "seed.tok");
    } else if (!strcmp(target, "checkpoint")) {
        llm_trainer *t;
        if (i > 0) return 0;
        t = fuzz_trainer(2);
        CHECK(llm_trainer_save(t, fuzz_path("seed.ckpt"), NULL) == LLM_OK);
        drop_trainer(t);
        fuzz_put_file(seed, fuzz_path(""), "seed.ckpt");
    } else if (!strcmp(target, "session")) {
        if (i >= sizeof ops / sizeof ops[0]) return 0;
        fuzz_put(seed, ops[i], sizeof ops[i]);
    } else if (strstr(target, "gguf")) {
        const int tokenizer = target[0] == 'v';
        size_t size;
        unsigned char *data = gguf_seed(tokenizer, i, &size);
        if (!data) return 0;
        fuzz_put_byte(seed, 0);
        if (!tokenizer) fuzz_put_byte(seed, i % 3);
        fuzz_put(seed, data, size);
        free(data);
    } else { /* descs: fields of each */
        if (i > 15) return 0;
        fuzz_put_byte(seed, 0);
        fuzz_put_byte(seed, i);
        fuzz_put(seed, "\1\3\2\1\5\1\0\1\3\175", 10);
    }
    return 1;
}

static void fuzz_run(const fuzz_target *target, const unsigned char *data, size_t size) {
    fuzz_input in;
    in.data = data;
    in.size = size;
    target->run(in);
}

#ifdef LLM_FUZZ
/* libFuzzer's target is that which the environment's LLM_FUZZ names. --seeds DIRECTORY writes the
 * seeds of all, each target's into a directory of its own, and ends. */
static const fuzz_target *fuzz_chosen;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static fuzz_seed seed;
    const char *name = getenv("LLM_FUZZ");
    char path[400];
    unsigned i, k;
    test_state.stop = 1; /* libFuzzer keeps the input of a target that exits */
    for (k = 0; k < FUZZ_TARGETS; k++) {
        if (name && !strcmp(name, fuzz_targets[k].name)) fuzz_chosen = &fuzz_targets[k];
        if (*argc != 3 || strcmp((*argv)[1], "--seeds") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", (*argv)[2], fuzz_targets[k].name);
        files_mkdir(path);
        printf("%s\n", fuzz_targets[k].name);
        for (i = 0; fuzz_make_seed(fuzz_targets[k].name, i, &seed); i++) {
            char file[32];
            snprintf(file, sizeof file, "seed-%u", i);
            files_write(path, file, seed.data, seed.size);
        }
    }
    if (*argc == 3 && !strcmp((*argv)[1], "--seeds")) exit(0);
    if (!fuzz_chosen) {
        fprintf(stderr, "LLM_FUZZ names no target\n");
        exit(2);
    }
    return 0;
}
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_run(fuzz_chosen, data, size);
    return 0;
}
#endif

/* each seed is accepted: a fuzzer starts from there */
TEST(fuzz_seeds) {
    static fuzz_seed seed;
    unsigned i;
    int k;
    for (k = 0; k < FUZZ_TARGETS; k++)
        for (i = 0; fuzz_make_seed(fuzz_targets[k].name, i, &seed); i++) {
            const int before = fuzz_accepted, failures = test_state.failures;
            fuzz_run(&fuzz_targets[k], seed.data, seed.size);
            CHECK_MSG(test_state.failures == failures, "seed %u of %s fails", i,
                      fuzz_targets[k].name);
            CHECK_MSG(fuzz_accepted > before, "seed %u of %s is refused", i, fuzz_targets[k].name);
        }
}

/* a byte of each seed changed, or the rest left out: a little of what make fuzz does */
TEST(fuzz_damaged_seeds) {
    static fuzz_seed seed;
    unsigned i, turn;
    int k;
    for (k = 0; k < FUZZ_TARGETS; k++)
        for (i = 0; fuzz_make_seed(fuzz_targets[k].name, i, &seed); i++)
            for (turn = 0; turn < 8; turn++) {
                const uint64_t drawn = llm_random(i, turn);
                const size_t at = (size_t)(drawn >> 8) % seed.size;
                const unsigned char kept = seed.data[at];
                const int failures = test_state.failures;
                seed.data[at] = (unsigned char)drawn;
                fuzz_run(&fuzz_targets[k], seed.data, turn % 4 == 3 ? at : seed.size);
                CHECK_MSG(test_state.failures == failures, "seed %u of %s fails, byte %lu of it %u",
                          i, fuzz_targets[k].name, (unsigned long)at, (unsigned)seed.data[at]);
                seed.data[at] = kept;
            }
}

/* inputs that failed once */
TEST(fuzz_regressions) {
#if LLMI_POSIX
    static const char path[] = TEST_DATA "/fuzz";
    DIR *directory = opendir(path);
    struct dirent *entry;
    CHECK(directory);
    while (directory && (entry = readdir(directory)) != NULL) {
        const int failures = test_state.failures;
        int k;
        for (k = 0; k < FUZZ_TARGETS; k++) {
            const size_t n = strlen(fuzz_targets[k].name);
            size_t size;
            char *data;
            if (strncmp(entry->d_name, fuzz_targets[k].name, n) != 0 || entry->d_name[n] != '-')
                continue;
            data = files_read(path, entry->d_name, &size);
            fuzz_run(&fuzz_targets[k], (const unsigned char *)data, size);
            free(data);
        }
        CHECK_MSG(test_state.failures == failures, "%s fails", entry->d_name);
    }
    if (directory) closedir(directory);
#else
    SKIP("no directories without POSIX");
#endif
}

static void run_fuzz(void) {
    RUN(fuzz_seeds);
    RUN(fuzz_damaged_seeds);
    RUN(fuzz_regressions);
    fuzz_forget();
}
