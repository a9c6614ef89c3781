/* GGUF files that come and go: tokenizers, what llm.h writes, read by a reader that shares nothing
 * with llm.h's, and what it has to refuse. The builder is test_gguf.c's. */

/* ---- tokenizers ------------------------------------------------------------------------------ */
static const char gguf_tokenizer_path[] = GGUF_AT "/t.gguf";
/* the character that stands for a byte in GPT-2's alphabet */
static int gguf_character(int byte, char *out) {
    int code = byte, n = 0, i;
    if (byte < 33 || (byte > 126 && byte < 161) || byte == 173) {
        for (i = 0; i < byte; i++) n += i < 33 || (i > 126 && i < 161) || i == 173;
        code = 256 + n;
    }
    if (code < 128) out[0] = (char)code;
    else {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 63));
    }
    return code < 128 ? 1 : 2;
}
/* 256 bytes, ten merges, a control token, one of the user's and one that nobody uses */
static const char *const gguf_merges[] = {"h e", "l l",  "he ll", "hell o", "\xc4\xa0 w",
                                          "1 2", "12 3", "123 4", "o r",    "\xc4\xa0w or"};
static const char *const gguf_merged[] = {
    "he",   "ll", "hell",        "hello",         "\xc4\xa0w", "12",      "123",
    "1234", "or", "\xc4\xa0wor", "<|endoftext|>", "<b>",       "[PAD268]"};
enum { GGUF_MERGES = 10, GGUF_EOT = 266, GGUF_USERS = 267, GGUF_UNUSED = 268, GGUF_TOKENS = 269 };
static int gguf_control = -1;                /* a token that is special, in the midst of others */
static void gguf_put_tokenizer(gguf_file *f, const char *pre) {
    gguf_bytes *b;
    char text[4];
    int i;
    gguf_string(f, "tokenizer.ggml.model", "gpt2");
    gguf_string(f, "tokenizer.ggml.pre", pre);
    b = gguf_array(f, "tokenizer.ggml.tokens", GGUF_STRING, GGUF_TOKENS);
    for (i = 0; i < 256; i++) gguf_text(b, text, (size_t)gguf_character(i, text));
    for (i = 0; i < GGUF_TOKENS - 256; i++) gguf_text(b, gguf_merged[i], strlen(gguf_merged[i]));
    b = gguf_array(f, "tokenizer.ggml.token_type", GGUF_I32, GGUF_TOKENS);
    for (i = 0; i < GGUF_TOKENS; i++)
        gguf_int(b, i == GGUF_EOT || i == gguf_control ? 3
                    : i == GGUF_USERS ? 4 : i == GGUF_UNUSED ? 5 : 1, 4);
    b = gguf_array(f, "tokenizer.ggml.merges", GGUF_STRING, GGUF_MERGES);
    for (i = 0; i < GGUF_MERGES; i++) gguf_text(b, gguf_merges[i], strlen(gguf_merges[i]));
}
static llm_tokenizer *gguf_tokenizer(gguf_file *f, int from_file, heap *h, llm_error *err) {
    size_t n;
    unsigned char *data = gguf_pack(f, &n), *copy = (unsigned char *)plain_alloc(n);
    llm_tokenizer *t;
    memset(err, 0, sizeof *err);
    memcpy(copy, data, n);
    if (from_file) gguf_write("t.gguf", data, n);
    t = from_file ? llm_tokenizer_load(gguf_tokenizer_path, &h->allocator, err)
                  : llm_tokenizer_load_memory(copy, n, &h->allocator, err);
    free(data);
    free(copy);
    CHECK_MSG(t || (h->live == 0 && !h->wrong), "%ld blocks left: %s", h->live, err->message);
    return t;
}
static void gguf_ids(const llm_tokenizer *t, const char *text, int special, const int *want,
                     int n) {
    int32_t got[32];
    size_t count = 0, i;
    CHECK(llm_tokenizer_encode(t, text, strlen(text), special, got, 32, &count, NULL) == LLM_OK);
    CHECK_MSG(count == (size_t)n, "\"%s\": %lu tokens", text, (unsigned long)count);
    for (i = 0; i < count && i < (size_t)n && i < 32; i++)
        CHECK_MSG(got[i] == want[i], "\"%s\": token %lu is %d, not %d", text, (unsigned long)i,
                  (int)got[i], want[i]);
}
/* every name of patterns is read, and the patterns have the first name of their row once more */
TEST(gguf_pre_names) {
    size_t pre, n;
    heap h;
    heap_init(&h);
    for (pre = 0; pre < LLMI_COUNT(llmi_gguf_pre); pre++) {
        const char *at = llmi_gguf_pre[pre].names;
        for (; *at; at += n + (at[n] == ' ')) {
            char name[40];
            llm_error err;
            llm_tokenizer *t;
            gguf_file *f = gguf_new("gpt2");
            n = strcspn(at, " ");
            snprintf(name, sizeof name, "%.*s", (int)n, at);
            gguf_put_tokenizer(f, name);
            t = gguf_tokenizer(f, 0, &h, &err);
            CHECK_MSG(t != NULL, "%s: %s", name, err.message);
            if (t) {
                const size_t again = llmi_gguf_pre_of(t);
                CHECK_MSG(again < LLMI_COUNT(llmi_gguf_pre) && (again == pre ||
                              !strncmp(llmi_gguf_pre[again].names, llmi_gguf_pre[pre].names, n)),
                          "%s becomes row %lu", name, (unsigned long)again);
                CHECK(t->ignore_merges == llmi_gguf_pre[again].ignore_merges);
            }
            llm_tokenizer_free(t);
            gguf_drop(f);
        }
    }
    for (n = 0; n < 4; n++) {
        static const char *const names[] = {"deepseek", "v3", "gpt-2 phi-2", ""};
        llm_error err;
        gguf_file *f = gguf_new("gpt2");
        gguf_put_tokenizer(f, names[n]);
        CHECK(!gguf_tokenizer(f, 0, &h, &err) && err.code == LLM_ERR_UNSUPPORTED);
        gguf_drop(f);
    }
    CHECK(h.live == 0 && !h.wrong);
}
/* its id is the file's */
TEST(gguf_control_among_others) {
    static const int want[] = {'x', '~', 'x'};
    gguf_file *f = gguf_new("gpt2");
    llm_tokenizer *t;
    llm_error err;
    heap h;
    heap_init(&h);
    gguf_control = '~';
    gguf_put_tokenizer(f, "gpt-2");
    gguf_control = -1;
    t = gguf_tokenizer(f, 0, &h, &err);
    CHECK_MSG(t != NULL, "%s", err.message);
    if (t) {
        CHECK(llm_tokenizer_token(t, "~", 1) == '~' && t->vocabulary.items['~'].added);
        gguf_ids(t, "x~x", 1, want, 3);
    }
    llm_tokenizer_free(t);
    gguf_drop(f);
}
TEST(gguf_tokenizers) {
    static const int hello[] = {259, 265, 'l', 'd', ' ', GGUF_USERS, '!', 0xc3, 0xa9},
                     whole[] = {263}, three[] = {262, '4'}, eot[] = {'o', GGUF_EOT, GGUF_EOT};
    static const int merged_not[] = {'h', 'e', 'h'};
    int way;
    heap h;
    heap_init(&h);
    for (way = 0; way < 16; way++) {           /* file, pre, before, after */
        gguf_file *f = gguf_new("gpt2");
        llm_tokenizer *t;
        llm_error err;
        int32_t ends[8];
        gguf_put_tokenizer(f, way & 2 ? "deepseek-v3" : "gpt-2");
        gguf_u32(f, "tokenizer.ggml.bos_token_id", GGUF_EOT);
        gguf_u32(f, "tokenizer.ggml.eos_token_id", 3);
        if (way & 4 || way & 8)
            gguf_number(f, "tokenizer.ggml.add_bos_token", GGUF_BOOL, (way & 4) != 0);
        if (way & 8) gguf_number(f, "tokenizer.ggml.add_eos_token", GGUF_BOOL, 1);
        t = gguf_tokenizer(f, way & 1, &h, &err);
        CHECK_MSG(t != NULL, "%s", err.message);
        if (t) {
            gguf_ids(t, "hello world <b>!\xc3\xa9", 0, hello, 9);
            gguf_ids(t, "1234", 0, way & 2 ? three : whole, way & 2 ? 2 : 1);
            gguf_ids(t, "o<|endoftext|><|endoftext|>", 1, eot, 3);
            CHECK(llm_tokenizer_token(t, "[PAD268]", 8) == -1 &&
                  llm_tokenizer_token(t, "<b>", 3) == GGUF_USERS);
            CHECK(llm_tokenizer_vocab_size(t) <= GGUF_TOKENS &&
                  llm_tokenizer_vocab_size(t) > GGUF_USERS);
            CHECK(llm_tokenizer_template(t, 0, ends) == !!(way & 4) &&
                  (!(way & 4) || ends[0] == GGUF_EOT));
            CHECK(llm_tokenizer_template(t, 1, ends) == !!(way & 8) &&
                  (!(way & 8) || ends[0] == 3));
        }
        llm_tokenizer_free(t);
        if (way == 0) { /* without types all are normal: nothing is found in a text */
            gguf_unset(f->keys, &f->n_keys, "tokenizer.ggml.token_type");
            gguf_array(f, "tokenizer.ggml.merges", GGUF_STRING, 0);
            t = gguf_tokenizer(f, 0, &h, &err);
            CHECK_MSG(t != NULL, "%s", err.message);
            if (t) gguf_ids(t, "heh", 1, merged_not, 3);
            if (t) CHECK(llm_tokenizer_vocab_size(t) == GGUF_TOKENS);
            llm_tokenizer_free(t);
        }
        gguf_drop(f);
    }
    CHECK(h.live == 0 && !h.wrong);
}

/* ---- files that llm.h writes: a reader of its own ------------------------------------------ */
/* Checks a whole file as llama.cpp does: offsets are the running sum of sizes, each rounded up, and
 * names are shorter than 64. -> the type of a key's value, or -1; *value: where it begins */
static int gguf_read(const unsigned char *file, size_t n, const char *wanted,
                     const unsigned char **value) {
    static const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t u[4], at = 24, offset = 0, i, j;
    int found = -1;
#define GET(to, bytes)                                                                             \
  (to = 0, CHECK(at + (bytes) <= n), memcpy(&to, file + at, bytes), at += (bytes))
    memcpy(u, file + 8, 16);
    CHECK(n > 24 && !memcmp(file, "GGUF\3\0\0\0", 8));
    for (i = 0; i < u[1]; i++) {
        uint64_t length, type, count = 1;
        const char *name;
        GET(length, 8);
        name = (const char *)file + at;
        at += length;
        GET(type, 4);
        if (strlen(wanted) == length && !memcmp(name, wanted, length)) {
            found = (int)type;
            *value = file + at;
        }
        if (type == GGUF_ARRAY) {
            GET(type, 4);
            GET(count, 8);
        }
        for (j = 0; j < count && type == GGUF_STRING; j++) {
            GET(length, 8);
            at += length;
        }
        if (type != GGUF_STRING) at += count * (uint64_t)sizes[type];
        CHECK(length < n && at < n);
    }
    for (i = 0; i < u[0]; i++) {
        uint64_t length, dims, d, values = 1, type, where;
        int t = 0;
        GET(length, 8);
        CHECK(length > 0 && length < 64);
        at += length;
        GET(dims, 4);
        CHECK(dims >= 1 && dims <= 4);
        for (j = 0; j < dims && j < 4; j++) {
            GET(d, 8);
            values *= d;
        }
        GET(type, 4);
        GET(where, 8);
        CHECK(where == offset);
        while (t < GGUF_TYPES && (uint64_t)gguf_type_number(gguf_types[t]) != type) t++;
        CHECK(t < GGUF_TYPES);
        offset += (llm_dtype_size(gguf_types[t % GGUF_TYPES], values) + 31) / 32 * 32;
    }
    #undef GET
    CHECK((at + 31) / 32 * 32 + offset == n);
    return found;
}
/* keys that llama.cpp needs, of exactly these types */
static void gguf_check_keys(const unsigned char *file, size_t n, const llm_config *c) {
    static const struct { int arch, type; const char *name;
    } keys[] = {{0, GGUF_STRING, "general.architecture"},
                {1, GGUF_U32, "gpt2.context_length"},
                {1, GGUF_U32, "gpt2.embedding_length"},
                {1, GGUF_U32, "gpt2.block_count"},
                {1, GGUF_U32, "gpt2.feed_forward_length"},
                {1, GGUF_U32, "gpt2.attention.head_count"},
                {1, GGUF_F32, "gpt2.attention.layer_norm_epsilon"},
                {2, GGUF_U32, "deepseek2.context_length"},
                {2, GGUF_U32, "deepseek2.embedding_length"},
                {2, GGUF_U32, "deepseek2.block_count"},
                {2, GGUF_U32, "deepseek2.feed_forward_length"},
                {2, GGUF_U32, "deepseek2.attention.head_count"},
                {2, GGUF_F32, "deepseek2.attention.layer_norm_rms_epsilon"},
                {2, GGUF_U32, "deepseek2.attention.q_lora_rank"},
                {2, GGUF_U32, "deepseek2.attention.kv_lora_rank"},
                {2, GGUF_U32, "deepseek2.attention.key_length"},
                {2, GGUF_U32, "deepseek2.attention.value_length"},
                {2, GGUF_U32, "deepseek2.rope.dimension_count"},
                {2, GGUF_F32, "deepseek2.rope.freq_base"},
                {2, GGUF_U32, "deepseek2.leading_dense_block_count"},
                {2, GGUF_U32, "deepseek2.expert_feed_forward_length"},
                {2, GGUF_U32, "deepseek2.expert_shared_count"},
                {2, GGUF_F32, "deepseek2.expert_weights_scale"},
                {2, GGUF_BOOL, "deepseek2.expert_weights_norm"},
                {2, GGUF_U32, "deepseek2.expert_gating_func"}};
    const unsigned char *value = NULL;
    size_t i;
    int type;
    for (i = 0; i < LLMI_COUNT(keys); i++)
        if (!keys[i].arch || keys[i].arch == (int)c->arch) {
            type = gguf_read(file, n, keys[i].name, &value);
            CHECK_MSG(type == keys[i].type, "%s is of type %d", keys[i].name, type);
        }
    type = gguf_read(file, n, "deepseek2.expert_group_count", &value);     /* 1 aborts llama.cpp */
    CHECK(type == (c->topk_group < c->n_group ? GGUF_U32 : -1));
    if (!c->n_routed_experts &&
        gguf_read(file, n, "deepseek2.expert_used_count", &value) == GGUF_U32)
        CHECK(value[0] == 0);
    if (c->arch == LLM_ARCH_DEEPSEEK_V3 && !c->n_routed_experts &&
        gguf_read(file, n, "deepseek2.leading_dense_block_count", &value) == GGUF_U32)
        CHECK(value[0] == c->n_layers);
}
/* the root of the mean squared error of a type, relative to that of values from N(0, s) */
static double gguf_error(llm_dtype type) {
    switch (type) {
        case LLM_F16: return 4e-4;
        case LLM_BF16: return 2.5e-3;
        case LLM_Q8_0: return 0.008;
        case LLM_Q6_K: return 0.025;
        case LLM_Q5_0: case LLM_Q5_1: case LLM_Q5_K: return 0.055;
        case LLM_Q4_0: case LLM_Q4_1: case LLM_Q4_K: return 0.11;
        default: return 0.0;
    }
}
static void gguf_round_trip(int kind, llm_dtype type, heap *h) {
    static const llm_special_tokens special = {1, 2, 3, {3, 5, 4}};
    llm_model *model = gguf_model(kind, 1, 5), *got, *again;
    llm_model_desc d = model_desc(0, 1, &h->allocator);
    const unsigned char *value;
    llm_special_tokens s;
    llm_error err;
    size_t size, more, i, j;
    char *file, *second, label[60];
    snprintf(label, sizeof label, "kind %d, %s", kind, llm_dtype_name(type));
    CHECK(llm_model_set_special_tokens(model, &special, NULL) == LLM_OK);
    gguf_write("x.gguf", "old", 3);
    err.message[0] = 0;
    CHECK_MSG(llm_gguf_save(model, NULL, gguf_path, type, &err) == LLM_OK, "%s: %s", label,
              err.message);
    CHECK(!LLMI_POSIX || files_count(GGUF_AT) == 1);
    file = files_read(GGUF_AT, "x.gguf", &size);
    gguf_check_keys((unsigned char *)file, size, llm_model_config(model));
    CHECK(gguf_read((unsigned char *)file, size, "tokenizer.ggml.model", &value) == GGUF_STRING &&
          !memcmp(value, "\4\0\0\0\0\0\0\0none", 12));
    got = llm_model_load(gguf_path, &d, &err);
    CHECK_MSG(got != NULL, "%s: %s", label, err.message);
    if (got) {
        gguf_same_config(got, model, label);
        s = llm_model_special_tokens(got);
        CHECK(!memcmp(&s, &special, sizeof s));
        if (type == LLM_F32 || type == LLM_DTYPE_DEFAULT) CHECK(gguf_same_values(got, model));
    }
    for (i = 0; got && i < llm_model_tensor_count(got); i++) {
        const llm_tensor t = llm_model_tensor(got, i);
        float *x = gguf_values(got, i), *y = gguf_values(model, i);
        double error = 0.0, square = 1e-30;
        for (j = 0; j < tensor_size(&t); j++) {
            error += ((double)x[j] - (double)y[j]) * ((double)x[j] - (double)y[j]);
            square += (double)y[j] * (double)y[j];
        }
        CHECK_MSG(sqrt(error / square) <= gguf_error(t.dtype), "%s: %s, %s: %g", label, t.name,
                  llm_dtype_name(t.dtype), sqrt(error / square));
        CHECK_MSG(
            t.dtype == LLM_F32 || t.dtype == type ||
                (llmi_dtype_is_blocks(type) && t.dtype == LLM_Q6_K &&
                 (strstr(t.name, "embed") || strstr(t.name, "wte") || strstr(t.name, "lm_head") ||
                  ((type == LLM_Q4_K || type == LLM_Q5_K) &&
                   (strstr(t.name, "kv_b") || strstr(t.name, "c_attn") ||
                    strstr(t.name, "down_proj") || strstr(t.name, "mlp.c_proj"))))),
            "%s: %s is %s", label, t.name, llm_dtype_name(t.dtype));
        free(x);
        free(y);
    }
    /* saved as it is, it is the same file, over the one that is mapped meanwhile */
    CHECK(!got || llm_gguf_save(got, NULL, gguf_path, LLM_DTYPE_DEFAULT, &err) == LLM_OK);
    second = files_read(GGUF_AT, "x.gguf", &more);
    again = llm_model_load(gguf_path, &d, &err);
    CHECK_MSG(got && again && gguf_same_values(got, again), "%s, saved again", label);
    for (i = 0; got && again && i < llm_model_tensor_count(got); i++)
        CHECK(llm_model_tensor(got, i).dtype == llm_model_tensor(again, i).dtype);
    CHECK_MSG(more == size && !memcmp(file + size / 2, second + size / 2, size - size / 2),
              "%s: saved again, another file", label);
    free(file);
    free(second);
    llm_model_free(got);
    llm_model_free(again);
    CHECK(h->live == 0 && !h->wrong);
    llm_model_free(model);
}
TEST(gguf_round_trips) {
    int i;
    heap h;
    heap_init(&h);
    gguf_write("x.gguf", "", 0);
    remove(gguf_tokenizer_path);
    for (i = 0; i < GGUF_TYPES; i++)
        gguf_round_trip(i % 2 ? GGUF_MOE + i % 3 : GGUF_GPT2 + i / 2 % 2, gguf_types[i], &h);
    for (i = GGUF_DENSE; i < GGUF_KINDS; i++)
        gguf_round_trip(i, i % 2 ? LLM_DTYPE_DEFAULT : LLM_Q4_K, &h);
    gguf_round_trip(GGUF_GPT2_UNTIED, LLM_Q5_K, &h);
}
/* YaRN's numbers come back, whatever they are */
TEST(gguf_yarn_round_trips) {
    static const float cases[][2] = {{0, 0},    {1, 1},       {0.707f, 0.707f},
                                     {1, 0.5f}, {0.8f, 1.2f}, {0, 1}};
    size_t i;
    for (i = 0; i < LLMI_COUNT(cases); i++) {
        llm_config c = gguf_config(GGUF_MOE_YARN, 0);
        llm_model *model, *got;
        llm_error err;
        c.yarn_mscale = cases[i][0];
        c.yarn_mscale_all_dim = cases[i][1];
        model = shaken_model(&c, 3, 1, NULL);
        err.message[0] = 0;
        CHECK_MSG(llm_gguf_save(model, NULL, gguf_path, LLM_F32, &err) == LLM_OK, "%s",
                  err.message);
        got = llm_model_load(gguf_path, NULL, &err);
        CHECK_MSG(got != NULL, "%g %g: %s", (double)cases[i][0], (double)cases[i][1], err.message);
        if (got) gguf_same_logits(got, model, 1e-5);
        llm_model_free(got);
        llm_model_free(model);
    }
}

/* a tokenizer saved with a model gives the same ids and template */
static void gguf_tokenizer_round_trip(const llm_tokenizer *t, int vocab, const char *label) {
    static const char text[] =
        "hello world <b>!\xc3\xa9 1234 don't  stop.\n\t<|endoftext|>\xff abab ADD";
    llm_config c = small_config(vocab, 4, 4, 1, 1);
    llm_model *model = shaken_model(&c, 1, 1, NULL);
    llm_tokenizer *got;
    int32_t a[100], b[100];
    size_t n = 0, m = 0;
    llm_error err;
    int special;
    err.message[0] = 0;
    CHECK_MSG(llm_gguf_save(model, t, gguf_tokenizer_path, LLM_F16, &err) == LLM_OK, "%s: %s",
              label, err.message);
    got = llm_tokenizer_load(gguf_tokenizer_path, NULL, &err);
    CHECK_MSG(got != NULL, "%s: %s", label, err.message);
    for (special = 0; got && special < 2; special++) {
        CHECK(llm_tokenizer_encode(t, text, sizeof text - 1, special, a, 100, &n, NULL) == LLM_OK &&
              llm_tokenizer_encode(got, text, sizeof text - 1, special, b, 100, &m, NULL) ==
                  LLM_OK);
        CHECK_MSG(n == m && n <= 100 && !memcmp(a, b, n * sizeof *a), "%s: ids differ", label);
        CHECK_MSG((n = (size_t)llm_tokenizer_template(t, special, a)) ==
                          (size_t)llm_tokenizer_template(got, special, b) &&
                      !memcmp(a, b, n * sizeof *a),
                  "%s: template", label);
    }
    if (got) CHECK(llm_tokenizer_vocab_size(got) == llm_tokenizer_vocab_size(t));
    llm_tokenizer_free(got);
    llm_model_free(model);
    model = llm_model_load(gguf_tokenizer_path, NULL, &err);
    CHECK_MSG(model != NULL, "%s: %s", label, err.message);
    llm_model_free(model);
}
TEST(gguf_tokenizer_round_trips) {
    llm_tokenizer *t = llm_tokenizer_train("hello hello world abab 1234 1234", 32, 270, NULL, NULL);
    const unsigned char *value;
    llm_error err;
    heap h;
    size_t n;
    char *file;
    int way;
    CHECK(t != NULL);
    gguf_tokenizer_round_trip(t, llm_tokenizer_vocab_size(t), "trained");
    file = files_read(GGUF_AT, "t.gguf", &n);
    CHECK(gguf_read((unsigned char *)file, n, "tokenizer.ggml.bos_token_id", &value) == GGUF_U32 &&
          value[0] + 256 * value[1] == llm_tokenizer_token(t, "<|endoftext|>", 13));  /* else 11 */
    CHECK(gguf_read((unsigned char *)file, n, "tokenizer.ggml.token_type", &value) == GGUF_ARRAY &&
          value[0] == GGUF_I32);
    free(file);
    gguf_tokenizer_round_trip(t, llm_tokenizer_vocab_size(t) + 5, "padded");
    {
        llm_config c = small_config(llm_tokenizer_vocab_size(t) - 1, 4, 4, 1, 1);
        llm_model *small = shaken_model(&c, 1, 1, NULL);
        REFUSED(LLM_ERR_ARGUMENT, llm_gguf_save(small, t, GGUF_AT "/none.gguf", LLM_F32, &err),
                "tokenizer", "tokens");
        CHECK(!fopen(GGUF_AT "/none.gguf", "rb"));
        llm_model_free(small);
    }
    llm_tokenizer_free(t);
    t = llm_tokenizer_load(BPE_DATA "small.json", NULL, &err);
    CHECK(t != NULL);
    gguf_tokenizer_round_trip(t, 500, "small.json");
    llm_tokenizer_free(t);
    heap_init(&h);
    for (way = 0; way < 4; way++) {
        gguf_file *f = gguf_new("gpt2");
        gguf_put_tokenizer(f, way & 1 ? "deepseek-v3" : "gpt-2");
        gguf_u32(f, "tokenizer.ggml.bos_token_id", GGUF_EOT);
        gguf_number(f, "tokenizer.ggml.add_bos_token", GGUF_BOOL, way / 2);
        t = gguf_tokenizer(f, 0, &h, &err);
        gguf_tokenizer_round_trip(t, GGUF_TOKENS, "by hand");
        llm_tokenizer_free(t);
        gguf_drop(f);
    }
}

/* ---- what is not saved ----------------------------------------------------------------------- */
static void gguf_not_saved(const llm_model *model, llm_dtype dtype, llm_result code,
                           const char *word) {
    llm_error err;
    size_t n;
    char *file;
    gguf_write("x.gguf", "old", 3);
    REFUSED(code, llm_gguf_save(model, NULL, gguf_path, dtype, &err), word);
    file = files_read(GGUF_AT, "x.gguf", &n);
    CHECK(n == 3 && !memcmp(file, "old", 3) && (files_count(GGUF_AT) == 1 || !LLMI_POSIX));
    free(file);
}
TEST(gguf_save_refuses) {
    llm_model *model = gguf_model(GGUF_GPT2, 0, 1);
    llm_error err;
    int i;
    remove(gguf_tokenizer_path);
    REFUSED(LLM_ERR_ARGUMENT, llm_gguf_save(NULL, NULL, gguf_path, LLM_F32, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_gguf_save(model, NULL, NULL, LLM_F32, &err), "NULL");
    gguf_not_saved(model, (llm_dtype)99, LLM_ERR_ARGUMENT, "99");
    gguf_not_saved(model, (llm_dtype)-1, LLM_ERR_ARGUMENT, "-1");
    gguf_not_saved(model, LLM_I32, LLM_ERR_ARGUMENT, "dtype");
    gguf_not_saved(model, LLM_F8_E4M3, LLM_ERR_UNSUPPORTED, "F8_E4M3");
    REFUSED(LLM_ERR_IO, llm_gguf_save(model, NULL, FILES "/none/x.gguf", LLM_F32, &err),
            "none/x.gguf");
    files_mkdir(GGUF_AT "/d.gguf");
    REFUSED(LLM_ERR_IO, llm_gguf_save(model, NULL, GGUF_AT "/d.gguf", LLM_F32, &err), "d.gguf");
    REFUSED(LLM_ERR_IO, (llm_model_load(GGUF_AT "/d.gguf", NULL, &err), err.code), "d.gguf",
            "directory");
    REFUSED(LLM_ERR_IO, (llm_tokenizer_load(GGUF_AT "/d.gguf", NULL, &err), err.code), "d.gguf",
            "directory");
#if LLMI_POSIX
    CHECK(rmdir(GGUF_AT "/d.gguf") == 0);
    CHECK(mkfifo(GGUF_AT "/d.gguf", 0666) == 0);       /* nobody waits for its other end */
    REFUSED(LLM_ERR_IO, (llm_model_load(GGUF_AT "/d.gguf", NULL, &err), err.code), "d.gguf");
    REFUSED(LLM_ERR_IO, (llm_tokenizer_load(GGUF_AT "/d.gguf", NULL, &err), err.code), "d.gguf");
    CHECK(remove(GGUF_AT "/d.gguf") == 0);
    gguf_write("x.gguf", "old", 3);
    for (i = -16; i < 16; i++) {               /* all temporary names are taken; then none is */
        char path[64];
        snprintf(path, sizeof path, i & 15 ? GGUF_AT "/x.gguf.tmp%d" : GGUF_AT "/x.gguf.tmp",
                 i & 15);
        if (i < 0) files_mkdir(path);
        else CHECK(rmdir(path) == 0);
        if (i == -1)
            REFUSED(LLM_ERR_IO, llm_gguf_save(model, NULL, gguf_path, LLM_F32, &err), "x.gguf");
    }
    CHECK(files_count(GGUF_AT) == 1);
#endif
    NOT_MADE(LLM_ERR_IO, llm_model_load(GGUF_AT "/none.gguf", NULL, &err), "none.gguf");
    NOT_MADE(LLM_ERR_IO, llm_tokenizer_load(GGUF_AT "/none.gguf", NULL, &err), "none.gguf");
    llm_model_free(model);
    for (i = 0; i < 8; i++) {                  /* what llama.cpp has no key for */
        static const char *const words[] = {"attention_bias", "rope_half_split", "yarn_beta",
                                            "yarn_beta",      "shared",          "q_lora_rank",
                                            "q_lora_rank",    "F8_E4M3"};
        llm_config c = gguf_config(i == 2 || i == 3 ? GGUF_MOE_YARN : GGUF_MOE, 0);
        llm_model_desc d = model_desc(1, 1, NULL);
        if (i == 0) c.attention_bias = 1;
        if (i == 1) c.rope_half_split = 1;
        if (i == 2) c.yarn_beta_fast = 16.0f;
        if (i == 3) c.yarn_beta_slow = 2.0f;
        if (i == 4) c.n_shared_experts = 0;
        if (i == 5 || i == 6)
            c.n_layers = c.first_k_dense = i == 5 ? 26 : 27, c.n_routed_experts = 0;
        if (i == 7) d.dtype = LLM_F8_E4M3;
        model = llm_model_create(&c, &d, &err);
        CHECK_MSG(model != NULL, "%s", err.message);
        gguf_not_saved(model, LLM_DTYPE_DEFAULT, LLM_ERR_UNSUPPORTED, words[i]);
        if (i == 7) CHECK(llm_gguf_save(model, NULL, gguf_path, LLM_Q8_0, NULL) == LLM_OK);
        llm_model_free(model);
    }
}
static llm_result gguf_saved(const llm_model *model, const llm_tokenizer *t, llm_error *err) {
    const llm_result result = llm_gguf_save(model, t, gguf_path, LLM_Q8_0, err);
    size_t n;
    char *file = files_read(GGUF_AT, "x.gguf", &n);
    CHECK(files_count(GGUF_AT) == 1 || !LLMI_POSIX);
    CHECK(result == LLM_OK || (n == 3 && !memcmp(file, "old", 3)));
    free(file);
    return result;
}
TEST(gguf_every_allocation_fails) {
    llm_tokenizer *t = llm_tokenizer_train("hello hello", 11, 260, NULL, NULL), *other = NULL;
    const llm_model_desc d = files_desc();
    llm_model_desc typed;
    llm_config c = gguf_config(GGUF_MOE, 0);
    llm_model *model, *got = NULL;
    gguf_file *f;
    llm_error err;
    size_t n;
    unsigned char *data;
    heap h;
    int form;
    heap_init(&h);
    c.vocab_size = 270;
    model = shaken_model(&c, 3, 1, &h.allocator);
    remove(gguf_tokenizer_path);
    gguf_write("x.gguf", "old", 3);
    EACH_ALLOCATION_FAILS(&h, gguf_saved(model, t, &err));
    for (form = 0; form < 4; form++) {
        f = gguf_of(model, LLM_F32, form);
        gguf_put_tokenizer(f, "gpt-2");
        data = gguf_pack(f, &n);
        gguf_write("x.gguf", data, n);
        typed = d;
        typed.dtype = form ? LLM_F16 : LLM_DTYPE_DEFAULT;
        EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, got, llm_model_load(gguf_path, &typed, &err));
        files_unload(got);
        EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, got,
                                      llm_model_load_memory(NULL, 0, data, n, &d, &err));
        files_unload(got);
        EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, other,
                                      llm_tokenizer_load(gguf_path, d.allocator, &err));
        llm_tokenizer_free(other);
        EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, other,
                                      llm_tokenizer_load_memory(data, n, d.allocator, &err));
        llm_tokenizer_free(other);
        CHECK(files_heap.live == 0 && !files_heap.wrong);
        files_none_mapped();
        free(data);
        gguf_drop(f);
    }
    llm_model_free(model);
    CHECK(h.live == 0 && !h.wrong);
    llm_tokenizer_free(t);
}

/* ---- files that are refused ------------------------------------------------------------------ */
static void gguf_refused_bytes(const void *data, size_t n, llm_result code, const char *word,
                               const char *about) {
    llm_error err;
    llm_model *model = gguf_load(data, n, LLM_DTYPE_DEFAULT, 0, &err);
    files_check(model, &err, code, "GGUF in memory", word, about);
    model = gguf_load(data, n, LLM_DTYPE_DEFAULT, 1, &err);
    files_check(model, &err, code, "x.gguf", word, about);
    CHECK_MSG(files_heap.largest < (size_t)1 << 22, "%s: %lu bytes were asked for", about,
              (unsigned long)files_heap.largest);
}
static void gguf_refused(gguf_file *f, llm_result code, const char *word, const char *about) {
    size_t n;
    unsigned char *data = gguf_pack(f, &n);
    gguf_refused_bytes(data, n, code, word, about);
    free(data);
}
/* a number of so many bytes, at `at`, is another */
static void gguf_patched(gguf_file *f, size_t at, uint64_t value, int bytes, llm_result code,
                         const char *word) {
    size_t n;
    unsigned char *data = gguf_pack(f, &n);
    char about[80];
    snprintf(about, sizeof about, "%llu at byte %lu", (unsigned long long)value, (unsigned long)at);
    CHECK(at + (size_t)bytes <= n);
    memcpy(data + at, &value, (size_t)bytes);
    gguf_refused_bytes(data, n, code, word, about);
    free(data);
}
static gguf_file *gguf_small(void) {
    llm_model *model = files_small(1, 1);
    gguf_file *f = gguf_of(model, LLM_F32, 0);
    llm_model_free(model);
    return f;
}
TEST(gguf_every_prefix) {
    gguf_file *f = gguf_small();
    const gguf_item *last = &f->tensors[f->n_tensors - 1];
    llm_error err;
    size_t size, n, end;
    unsigned char *data = gguf_pack(f, &size);
    end = f->data + (size_t)last->offset + last->bytes.n;  /* only padding after it */
    for (n = 0; n <= size; n++) {
        llm_model *model = gguf_load(data, n, LLM_DTYPE_DEFAULT, 0, &err);
        if (n < 4) files_check(model, &err, LLM_ERR_ARGUMENT, "NULL", "", "a prefix");
        else if (n < end)
            files_check(model, &err, LLM_ERR_FORMAT, "GGUF in memory", "", "a prefix");
        else {
            CHECK(n < size || model != NULL);
            files_unload(model);
        }
        if (n >= end || (n > 40 && n % 5)) continue;
        files_check(gguf_load(data, n, LLM_DTYPE_DEFAULT, 1, &err), &err, LLM_ERR_FORMAT, "x.gguf",
                    "", "a prefix");
    }
    free(data);
    gguf_drop(f);
}
TEST(gguf_bad_containers) {
    gguf_file *f = gguf_small();
    llm_error err;
    size_t n, i;
    unsigned char *data = gguf_pack(f, &n);
    const gguf_item *key = &f->keys[1], *tensor = &f->tensors[2], *next = &f->tensors[3],
                    *wte = &f->tensors[0];
    const size_t name = tensor->at + 8, dims = name + tensor->n_name + 4,
                 value = key->at + 8 + key->n_name;
    static const uint64_t lengths[] = {
        0,          256,           300, (uint64_t)1 << 30, (uint64_t)1 << 60, (uint64_t)1 << 63,
        UINT64_MAX, UINT64_MAX - 7};
    static const int types[] = {4, 5, 9, 10, 11, 15, 16, 24, 26, 28, 31, 39, 255, 999, 1 << 30, -1};
    data[3] = 'G';
    gguf_write("x.gguf", data, n);
    NOT_MADE(LLM_ERR_FORMAT, llm_model_load(gguf_path, NULL, &err), "x.gguf", "no GGUF");
    NOT_MADE(LLM_ERR_FORMAT, llm_tokenizer_load(gguf_path, NULL, &err), "x.gguf", "no GGUF");
    free(data);
    gguf_patched(f, 4, 1, 4, LLM_ERR_UNSUPPORTED, "version 1");
    gguf_patched(f, 4, 4, 4, LLM_ERR_UNSUPPORTED, "version 4");
    gguf_patched(f, 4, 3u << 24, 4, LLM_ERR_UNSUPPORTED, "big-endian");
    for (i = 3; i < LLMI_COUNT(lengths); i++) {
        gguf_patched(f, 8, lengths[i], 8, LLM_ERR_FORMAT, "tensors");
        gguf_patched(f, 16, lengths[i], 8, LLM_ERR_FORMAT, "keys");
    }
    gguf_patched(f, 8, (uint64_t)f->n_tensors + 1, 8, LLM_OK, "");
    gguf_patched(f, 8, (uint64_t)f->n_tensors - 1, 8, LLM_ERR_FORMAT, "missing");
    gguf_patched(f, 16, (uint64_t)f->n_keys + 1, 8, LLM_OK, "");
    gguf_patched(f, 16, (uint64_t)f->n_keys - 1, 8, LLM_OK, "");
    for (i = 0; i < LLMI_COUNT(lengths); i++) {
        gguf_patched(f, key->at, lengths[i], 8, LLM_ERR_FORMAT, "name");
        gguf_patched(f, tensor->at, lengths[i], 8, LLM_ERR_FORMAT, "name");
        if (lengths[i] > 300)
            gguf_patched(f, f->keys[0].at + 8 + f->keys[0].n_name + 4, lengths[i], 8,
                         LLM_ERR_FORMAT, "string");
    }
    gguf_patched(f, key->at + 10, 0, 1, LLM_ERR_FORMAT, "zero byte");
    gguf_patched(f, name + 3, 0, 1, LLM_ERR_FORMAT, "zero byte");
    for (i = 13; i < 300; i += 143) gguf_patched(f, value, i, 4, LLM_ERR_UNSUPPORTED, "type");
    gguf_patched(f, value, (uint64_t)1 << 31, 4, LLM_ERR_UNSUPPORTED, "type");
    gguf_patched(f, name + tensor->n_name, 0, 4, LLM_ERR_FORMAT, "0 dims");
    gguf_patched(f, name + tensor->n_name, 5, 4, LLM_ERR_FORMAT, "5 dims");
    gguf_patched(f, name + tensor->n_name, (uint64_t)1 << 31, 4, LLM_ERR_FORMAT, "dims");
    gguf_patched(f, dims, 0, 8, LLM_ERR_FORMAT, tensor->name);
    gguf_patched(f, dims, (uint64_t)1 << 62, 8, LLM_ERR_FORMAT, tensor->name);
    gguf_patched(f, dims, UINT64_MAX, 8, LLM_ERR_FORMAT, tensor->name);
    gguf_patched(f, dims, (uint64_t)1 << 32, 8, LLM_ERR_FORMAT, tensor->name);
    gguf_patched(f, wte->at + 8 + wte->n_name + 4, (uint64_t)1 << 62, 8, LLM_ERR_FORMAT, wte->name);
    for (i = 0; i < LLMI_COUNT(types); i++)
        gguf_patched(f, dims + 8, (uint64_t)types[i], 4, LLM_ERR_UNSUPPORTED, tensor->name);
    gguf_patched(f, dims + 8, 8, 4, LLM_ERR_FORMAT, "Q8_0");           /* 2 values are no block */
    gguf_patched(f, dims + 8, 12, 4, LLM_ERR_FORMAT, "Q4_K");
    gguf_patched(f, dims + 12, tensor->offset + 4, 8, LLM_ERR_FORMAT, "aligned");
    gguf_patched(f, dims + 12, tensor->offset + 1, 8, LLM_ERR_FORMAT, "aligned");
    gguf_patched(f, dims + 12, next->offset, 8, LLM_ERR_FORMAT, "overlap");
    gguf_patched(f, dims + 12, 0, 8, LLM_ERR_FORMAT, "overlap");
    for (i = 5; i < 64; i++)
        gguf_patched(f, dims + 12, (uint64_t)1 << i << 7, 8, LLM_ERR_FORMAT, "");
    gguf_patched(f, dims + 12, UINT64_MAX - 31, 8, LLM_ERR_FORMAT, tensor->name);
    {   /* two dims whose product is 2^64, and 0 modulo that */
        size_t m;
        unsigned char *bytes = gguf_pack(f, &m);
        const uint64_t both[2] = {(uint64_t)1 << 32, (uint64_t)1 << 32};
        memcpy(bytes + wte->at + 8 + wte->n_name + 4, both, 16);
        gguf_refused_bytes(bytes, m, LLM_ERR_FORMAT, wte->name, "2^64 values");
        free(bytes);
    }
    for (i = 0; i < 5; i++) {
        static const double bad[] = {0, 3, 2147483648.0, 131072, 48};
        gguf_u32(f, "general.alignment", bad[i]);
        gguf_refused(f, LLM_ERR_FORMAT, "general.alignment", "an alignment");
    }
    gguf_string(f, "general.alignment", "32");
    gguf_refused(f, LLM_ERR_FORMAT, "general.alignment", "a string as alignment");
    gguf_unset(f->keys, &f->n_keys, "general.alignment");
    (void)gguf_array(f, "some.array", GGUF_U32, (uint64_t)1 << 60);
    gguf_refused(f, LLM_ERR_FORMAT, "array", "2^60 numbers");
    (void)gguf_array(f, "some.array", GGUF_U32, ((uint64_t)1 << 62) + 1);  /* times 4 is 4 */
    gguf_refused(f, LLM_ERR_FORMAT, "array", "2^62 numbers");
    (void)gguf_array(f, "some.array", GGUF_STRING, UINT64_MAX);
    gguf_refused(f, LLM_ERR_FORMAT, "", "2^64 strings");
    gguf_int(gguf_array(f, "some.array", GGUF_ARRAY, 1), 4, 4);
    gguf_refused(f, LLM_ERR_UNSUPPORTED, "some.array", "an array in an array");
    (void)gguf_array(f, "some.array", 13, 1);
    gguf_refused(f, LLM_ERR_UNSUPPORTED, "some.array", "an array of what?");
    gguf_u32(f, "some.array", 1);
    f->keys[f->n_keys] = f->keys[f->n_keys - 1];               /* the same key twice */
    f->n_keys++;
    gguf_refused(f, LLM_ERR_FORMAT, "twice", "a key twice");
    f->n_keys--;
    f->tensors[f->n_tensors] = f->tensors[2];
    f->n_tensors++;
    gguf_refused(f, LLM_ERR_FORMAT, "ln_1", "a tensor twice");
    memset(&f->tensors[--f->n_tensors], 0, sizeof f->tensors[0]);
    gguf_add_tensor(f, "blk.0.foo.weight", 0, 1, 8, 1, 1)->bytes.n = 0;
    gguf_int(&f->tensors[f->n_tensors - 1].bytes, 0, 32);
    gguf_refused(f, LLM_ERR_UNSUPPORTED, "blk.0.foo.weight", "a tensor that has no place");
    gguf_drop(f);
}
/* every key that is needed is named where it is missing, or no number; optional ones, too */
static void gguf_bad_keys(int kind, const char *const *optional) {
    llm_model *model = gguf_model(kind, 0, 1);
    const int split = kind == GGUF_MOE_YARN ? GGUF_SPLIT : 0;
    gguf_file *f = gguf_of(model, LLM_F32, split);
    int i, k;
    for (i = 0; i < f->n_keys; i++) {
        gguf_file *g = gguf_of(model, LLM_F32, split);
        char name[320];
        strcpy(name, f->keys[i].name);
        if (strstr(name, "head_count_kv") || strstr(name, "_length_mla") ||
            (split && (strstr(name, "key_length") || strstr(name, "value_length")))) {
            gguf_drop(g);
            continue;                  /* not looked at, or of two keys one is enough */
        }
        for (k = 0; optional[k] && !strstr(name, optional[k]);) k++;
        if (!optional[k]) {
            gguf_unset(g->keys, &g->n_keys, name);
            gguf_refused(g, LLM_OK,            /* without a function it is V2's, softmax */
                         !strstr(name, "gating_func")   ? i ? strchr(name, '.') + 1 : "architecture"
                         : model->config.norm_topk_prob ? "norm_topk_prob"
                                                        : "e_score_correction_bias", name);
        }
        if (f->keys[i].type == GGUF_STRING) gguf_u32(g, name, 1);
        else gguf_string(g, name, "1");
        gguf_refused(g, LLM_OK, i ? strchr(name, '.') + 1 : "architecture", name);
        gguf_drop(g);
    }
    gguf_drop(f);
    llm_model_free(model);
}
TEST(gguf_bad_keys) {
    static const char *const none[] = {NULL};
    static const char *const optional[] = {"head_count_kv",  "freq_base",     "_length_mla",
                                           "q_lora_rank",    "weights_scale", "weights_norm",
                                           "expert_group",   "expert_count",  "original_context",
                                           "log_multiplier", "scaling.type",  NULL};
    static const struct {
        const char *key;
        int type;
        double value;
        llm_result code;
        const char *word;
    } bad[] = {
        {".block_count", GGUF_U32, 0, LLM_OK, ""},
        {".block_count", GGUF_U32, 4294967295.0, LLM_OK, ""},
        {".block_count", GGUF_U32, 9999, LLM_OK, ""},
        {".block_count", GGUF_F32, 1.5, LLM_OK, ""},
        {".block_count", GGUF_I32, -2, LLM_OK, ""},
        {".block_count", GGUF_F32, NAN, LLM_OK, ""},
        {".embedding_length", GGUF_U32, 1 << 20, LLM_OK, ""},
        {".embedding_length", GGUF_I64, -9e18, LLM_OK, ""},
        {".context_length", GGUF_F64, 1e300, LLM_OK, ""},
        {".context_length", GGUF_U64, 1.8e19, LLM_OK, ""},
        {".attention.head_count", GGUF_U32, 0, LLM_OK, ""},
        {".attention.head_count", GGUF_U32, 65537, LLM_OK, ""},
        {".attention.layer_norm_rms_epsilon", GGUF_F32, NAN, LLM_OK, ""},
        {".attention.layer_norm_rms_epsilon", GGUF_F32, INFINITY, LLM_OK, ""},
        {".attention.layer_norm_rms_epsilon", GGUF_F32, 0, LLM_OK, ""},
        {".attention.key_length", GGUF_U32, 1, LLM_OK, ""},
        {".attention.value_length", GGUF_U32, 70000, LLM_OK, ""},
        {".rope.dimension_count", GGUF_U32, 3, LLM_OK, ""},
        {".rope.freq_base", GGUF_F32, NAN, LLM_OK, ""},
        {".expert_gating_func", GGUF_U32, 1, LLM_ERR_UNSUPPORTED, "norm_topk_prob"},
        {".expert_gating_func", GGUF_U32, 3, LLM_ERR_UNSUPPORTED, "expert_gating_func"},
        {".expert_used_count", GGUF_U32, 0, LLM_OK, ""},
        {".expert_used_count", GGUF_U32, 7, LLM_OK, ""},
        {".expert_count", GGUF_U32, 65536, LLM_OK, ""},
        {".expert_count", GGUF_U32, 4, LLM_OK, ""},
        {".expert_shared_count", GGUF_U32, 4000000000.0, LLM_OK, ""},
        {".expert_group_count", GGUF_U32, 4, LLM_OK, ""},
        {".expert_group_used_count", GGUF_U32, 3, LLM_OK, ""},
        {".leading_dense_block_count", GGUF_U32, 3, LLM_OK, ""},
        {".leading_dense_block_count", GGUF_U32, 0, LLM_OK, ""},
        {".nextn_predict_layers", GGUF_U32, 2, LLM_OK, ""},
        {".nextn_predict_layers", GGUF_U32, 1, LLM_OK, ""},
        {".attention.temperature_scale", GGUF_F32, 0.5, LLM_ERR_UNSUPPORTED, "temperature_scale"},
        {"tokenizer.ggml.bos_token_id", GGUF_F32, 1.5, LLM_OK, ""}};
    llm_model *model = gguf_model(GGUF_MOE, 0, 1);
    gguf_file *f;
    size_t i;
    int t;
    gguf_bad_keys(GGUF_GPT2, none);
    gguf_bad_keys(GGUF_MOE, optional);
    gguf_bad_keys(GGUF_MOE_YARN, optional);
    for (i = 0; i < LLMI_COUNT(bad); i++) {
        f = gguf_of(model, LLM_F32, 0);
        gguf_number(f, bad[i].key, bad[i].type, bad[i].value);
        gguf_refused(f, bad[i].code, bad[i].word, bad[i].key);
        gguf_drop(f);
    }
    f = gguf_of(model, LLM_F32, 0);
    gguf_string(f, "general.architecture", "llama");
    gguf_refused(f, LLM_ERR_UNSUPPORTED, "architecture", "llama");
    gguf_string(f, "general.architecture", "deepseek2");
    gguf_string(f, ".rope.scaling.type", "linear");
    gguf_number(f, ".rope.scaling.factor", GGUF_F32, 2);
    gguf_refused(f, LLM_ERR_UNSUPPORTED, "rope.scaling.type", "linear");
    gguf_string(f, ".rope.scaling.type", "longrope");
    gguf_refused(f, LLM_ERR_UNSUPPORTED, "rope.scaling.type", "longrope");
    gguf_string(f, ".rope.scaling.type", "yarn");
    for (i = 0; i < 4; i++) {
        static const double factors[] = {NAN, INFINITY, -1, 0};
        gguf_number(f, ".rope.scaling.factor", GGUF_F32, factors[i]);
        gguf_refused(f, LLM_OK, "", "a factor of YaRN");
    }
    gguf_drop(f);
    f = gguf_of(model, LLM_F32, 0);
    for (t = 0; t < f->n_tensors; t++) {       /* each tensor missing, and with a row too few */
        gguf_file *g = gguf_of(model, LLM_F32, 0);
        gguf_item *item = &g->tensors[t];
        const int last = item->n_dims - 1;
        item->bytes.n -= item->bytes.n / item->dims[last];
        item->dims[last]--;
        gguf_refused(g, LLM_ERR_FORMAT, "", item->name);
        if (strcmp(f->tensors[t].name, "output.weight") &&
            !strstr(f->tensors[t].name, "exp_probs_b")) {
            gguf_unset(g->tensors, &g->n_tensors, f->tensors[t].name);
            gguf_refused(g, LLM_ERR_FORMAT, "", f->tensors[t].name);
        }
        gguf_drop(g);
    }
    gguf_drop(f);
    llm_model_free(model);
}

static void gguf_bad_tokenizer(gguf_file *f, llm_result code, const char *word, const char *about) {
    llm_error err;
    heap h;
    int from_file;
    for (from_file = 0; from_file < 2; from_file++) {
        llm_tokenizer *t;
        heap_init(&h);
        t = gguf_tokenizer(f, from_file, &h, &err);
        check_refused(t ? LLM_OK : err.code, code == LLM_OK && !t ? err.code : code, &err,
                      (const char *const[]){from_file ? "t.gguf" : "GGUF in memory", word, NULL},
                      about);
        llm_tokenizer_free(t);
        CHECK(h.live == 0 && !h.wrong && h.largest < (size_t)1 << 22);
    }
}
TEST(gguf_bad_tokenizers) {
    int i, k;
    for (i = 0; i < 23; i++) {
        gguf_file *f = gguf_new("gpt2");
        llm_result code = LLM_ERR_FORMAT;
        const char *word = "";
        gguf_bytes *b;
        char about[40];
        gguf_put_tokenizer(f, "gpt-2");
        if (i < 2) {
            gguf_string(f, "tokenizer.ggml.model", i ? "llama" : "none");
            code = LLM_ERR_UNSUPPORTED, word = "tokenizer.ggml.model";
        } else if (i < 5) {
            gguf_string(f, "tokenizer.ggml.pre",
                        i == 2   ? "kimi-k9"
                        : i == 3 ? ""
                                 : "a name of more than forty "
                                   "bytes, which is cut off where a message has no room for it");
            code = LLM_ERR_UNSUPPORTED, word = i == 2 ? "kimi-k9" : "tokenizer.ggml.pre";
        } else if (i < 9) {            /* missing, or no array of strings */
            static const char *const keys[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
            if (i < 7) gguf_unset(f->keys, &f->n_keys, keys[i % 2]);
            else gguf_u32(f, keys[i % 2], 1);
            word = "tokens";
        } else if (i == 9) {
            gguf_unset(f->keys, &f->n_keys, "tokenizer.ggml.pre");
            code = LLM_ERR_UNSUPPORTED, word = "tokenizer.ggml.pre";
        } else if (i < 13) {           /* types: one too few, of 16 bits, floats */
            b = gguf_array(f, "tokenizer.ggml.token_type",
                           i == 10   ? GGUF_I32
                           : i == 11 ? GGUF_I16
                                     : GGUF_F32,
                           GGUF_TOKENS - (i == 10));
            for (k = 0; k < GGUF_TOKENS; k++) gguf_int(b, 1, i == 11 ? 2 : 4);
            if (i == 10) b->n -= 4;
            word = "token_type";
        } else if (i < 15) {           /* no UTF-8: a lone byte, half a surrogate pair */
            b = gguf_array(f, "tokenizer.ggml.tokens", GGUF_STRING, GGUF_TOKENS);
            for (k = 0; k < GGUF_TOKENS; k++) {
                char text[40];
                snprintf(text, sizeof text, "%d", k);
                if (k == 77) strcpy(text, i == 13 ? "a\xff" : "\xed\xa0\x80");
                gguf_text(b, text, strlen(text));
            }
            gguf_array(f, "tokenizer.ggml.merges", GGUF_STRING, 0);
        } else if (i < 19) {           /* merges: of no token, to no token, no pair, nothing */
            static const char *const merges[] = {"hee l", "a b", "ab", ""};
            b = gguf_array(f, "tokenizer.ggml.merges", GGUF_STRING, 1);
            gguf_text(b, merges[i - 15], strlen(merges[i - 15]));
        } else if (i == 19) {
            gguf_u32(f, "tokenizer.ggml.bos_token_id", GGUF_TOKENS);
            gguf_number(f, "tokenizer.ggml.add_bos_token", GGUF_BOOL, 1);
            word = "bos_token_id";
        } else if (i == 20) {
            gguf_number(f, "tokenizer.ggml.eos_token_id", GGUF_I32, -1);
            gguf_number(f, "tokenizer.ggml.add_eos_token", GGUF_BOOL, 1);
            word = "eos_token_id";
        } else if (i == 21) {          /* a token twice */
            b = gguf_array(f, "tokenizer.ggml.tokens", GGUF_STRING, GGUF_TOKENS);
            for (k = 0; k < GGUF_TOKENS; k++) {
                char text[40];
                snprintf(text, sizeof text, "%d", k == 99 ? 98 : k);
                gguf_text(b, text, strlen(text));
            }
            gguf_array(f, "tokenizer.ggml.merges", GGUF_STRING, 0);
        } else {                       /* 2^60 tokens */
            (void)gguf_array(f, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)1 << 60);
        }
        snprintf(about, sizeof about, "tokenizer %d", i);
        gguf_bad_tokenizer(f, code, word, about);
        gguf_drop(f);
    }
    {
        gguf_file *f = gguf_new("gpt2");
        size_t size, n;
        unsigned char *data;
        llm_error err;
        heap h;
        heap_init(&h);
        gguf_put_tokenizer(f, "gpt-2");
        data = gguf_pack(f, &size);
        for (n = 1; n < f->keys[4].at + 8 + f->keys[4].n_name + f->keys[4].bytes.n;
             n += n < 200 ? 1 : 13) {
            unsigned char *copy = (unsigned char *)plain_alloc(n);
            memcpy(copy, data, n);
            NOT_MADE(LLM_ERR_FORMAT, llm_tokenizer_load_memory(copy, n, &h.allocator, &err), "");
            CHECK(h.live == 0);
            free(copy);
        }
        free(data);
        gguf_drop(f);
    }
}

/* ---- in parts -------------------------------------------------------------------------------- */
/* part `no` of `count` by its keys: the tensors first to last; the first part has all keys */
static void gguf_write_part(const gguf_file *whole, const char *name, int no, int count, int first,
                            int last, int total) {
    gguf_file *f = (gguf_file *)plain_alloc(sizeof *f);
    unsigned char *data;
    size_t n;
    *f = *whole;
    if (no) f->n_keys = 0;
    memset(&f->keys[f->n_keys], 0, 3 * sizeof f->keys[0]);
    gguf_number(f, "split.no", GGUF_U16, no);
    gguf_number(f, "split.count", GGUF_U16, count);
    gguf_number(f, "split.tensors.count", GGUF_I32, total);
    f->n_tensors = last - first;
    memmove(f->tensors, f->tensors + first, (size_t)f->n_tensors * sizeof f->tensors[0]);
    data = gguf_pack(f, &n);
    gguf_write(name, data, n);
    free(data);
    for (n = (size_t)f->n_keys - 3; n < (size_t)f->n_keys; n++) free(f->keys[n].bytes.data);
    free(f);
}
TEST(gguf_parts) {
    static const char *const names[] = {"p-00001-of-00003.gguf", "p-00002-of-00003.gguf",
                                        "p-00003-of-00003.gguf"};
    static const char first[] = GGUF_AT "/p-00001-of-00003.gguf";
    llm_model *want = gguf_model(GGUF_MOE, 0, 5), *got;
    gguf_file *f = gguf_of(want, LLM_F32, 0);
    const int n = f->n_tensors, cuts[] = {0, n / 3, n / 2, n};
    llm_error err;
    int i, bad;
    for (bad = 0; bad < 9; bad++) {
        for (i = 0; i < 3; i++) {
            gguf_write_part(f, names[i], i, 3, cuts[i] + (bad == 8 && i == 0 ? cuts[1] : 0),
                            cuts[i + 1], n);
            if (bad == 1 && i == 1)
                gguf_write_part(f, names[1], 2, 3, cuts[1], cuts[2], n); /* no. 3 */
            if (bad == 2 && i == 2)
                gguf_write_part(f, names[2], 2, 4, cuts[2], cuts[3], n); /* of 4 */
            if (bad == 3 && i == 2) gguf_write_part(f, names[2], 2, 3, cuts[2], cuts[3], n + 1);
            if (bad == 4 && i == 2) gguf_write_part(f, names[2], 2, 3, cuts[2], cuts[3] - 1, n);
            if (bad == 5 && i == 1)
                gguf_write_part(f, names[1], 1, 3, cuts[1] - 1, cuts[2], n + 1); /* twice */
            if (bad == 6 && i == 1) remove(GGUF_AT "/p-00002-of-00003.gguf");
            if (bad == 7 && i == 2) gguf_write(names[2], "GGUF", 4);
        }
        if (bad == 8)
            gguf_write_part(f, names[1], 1, 3, 0, cuts[2], n); /* the first has keys only */
        got = files_load(first, &err);
        if (bad == 0 || bad == 8) {
            CHECK_MSG(got && gguf_same_values(got, want), "%s", err.message);
            if (got) gguf_same_logits(got, want, 0.0);
            files_unload(got);
            continue;
        }
        files_check(got, &err, bad == 6 ? LLM_ERR_IO : LLM_ERR_FORMAT,
                    bad == 1 || bad == 6 ? "00002-of" : "-of-00003", "", "parts");
    }
    for (i = 0; i < 3; i++) gguf_write_part(f, names[i], i, 3, cuts[i], cuts[i + 1], n);
    {   /* another part than the first, or one alone: named, or all are found */
        const char *second = GGUF_AT "/p-00002-of-00003.gguf";
        size_t size;
        char *data = files_read(GGUF_AT, names[0], &size);
        got = files_load(second, &err);
        CHECK(got ? gguf_same_values(got, want)
                  : err.code == LLM_ERR_FORMAT && strstr(err.message, "0000"));
        files_unload(got);
        gguf_write("alone.gguf", data, size);
        files_refuses(GGUF_AT "/alone.gguf", LLM_ERR_FORMAT, "alone.gguf", "part 1 of 3",
                      "one part");
        free(data);
        remove(GGUF_AT "/alone.gguf");
    }
    files_refuses(GGUF_AT "/q-00001-of-99999.gguf", LLM_OK, "q-00001-of-99999.gguf", "",
                  "99999 parts");
    CHECK_MSG(files_heap.largest < (size_t)1 << 22, "%lu bytes for parts that are not there",
              (unsigned long)files_heap.largest);
    files_refuses(GGUF_AT "/q-00001-of-00000.gguf", LLM_ERR_IO, "q-00001-of-00000.gguf", "",
                  "0 parts");
    for (i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, GGUF_AT "/%s", names[i]);
        remove(path);
    }
    gguf_drop(f);
    llm_model_free(want);
}

/* ---- any bytes ------------------------------------------------------------------------------- */
/* seeds of test_fuzz.c's targets: models, then tokenizers; NULL: there is none */
static unsigned char *gguf_seed(int tokenizer, unsigned i, size_t *size) {
    static const int kinds[] = {GGUF_GPT2, GGUF_MOE, GGUF_NEXTN, GGUF_MOE_YARN, GGUF_DENSE};
    llm_model *model;
    gguf_file *f;
    unsigned char *data;
    if (i >= (tokenizer ? 2 : LLMI_COUNT(kinds))) return NULL;
    if (tokenizer) {
        f = gguf_new("gpt2");
        gguf_put_tokenizer(f, i ? "deepseek-v3" : "gpt-2");
        gguf_u32(f, "tokenizer.ggml.bos_token_id", 3);
        gguf_number(f, "tokenizer.ggml.add_bos_token", GGUF_BOOL, i);
    } else {
        llm_config c = gguf_config(kinds[i], 0);
        c.max_seq_len = 8;
        if (i == 4) c.d_model = c.d_ffn = c.kv_lora_rank = 32, c.v_head_dim = 32;
        c.n_layers = i == 1 || i == 3 ? 2 : 1;
        model = shaken_model(&c, 5, 1, NULL);
        f = gguf_of(model,
                    i == 4   ? LLM_Q8_0
                    : i == 0 ? LLM_BF16
                             : LLM_F32,
                    i == 2 ? GGUF_GATE_UP : i == 3);
        if (i == 1) gguf_u32(f, "general.alignment", 32);
        llm_model_free(model);
    }
    data = gguf_pack(f, size);
    gguf_drop(f);
    return data;
}
/* what is loaded of any bytes can be used; -> was it? */
static int gguf_use_model(const void *data, size_t n, const llm_model_desc *d, llm_error *err) {
    llm_model *model = llm_model_load_memory(NULL, 0, data, n, d, err);
    if (model && llm_model_config(model)->vocab_size < 1000 &&
        llm_config_param_count(llm_model_config(model)) < 200000) {
        const size_t V = (size_t)llm_model_config(model)->vocab_size;
        float *logits = new_floats(2 * V);
        const int32_t tokens[2] = {0, (int32_t)V - 1};
        const llm_result result = llm_model_logits(
            model, tokens, 1, llm_model_config(model)->max_seq_len > 1 ? 2 : 1, logits, err);
        CHECK(result == LLM_OK || result == LLM_ERR_MEMORY);
        free(logits);
    }
    llm_model_free(model);
    return model != NULL;
}
static int gguf_use_tokenizer(const void *data, size_t n, const llm_allocator *allocator,
                              llm_error *err) {
    static const char text[] = "hello <b> 12<|endoftext|>\xff";
    llm_tokenizer *t = llm_tokenizer_load_memory(data, n, allocator, err);
    int32_t tokens[64];
    size_t count = 0, back = 0;
    if (t) {
        CHECK(llm_tokenizer_encode(t, text, sizeof text - 1, 1, tokens, 64, &count, NULL) !=
              LLM_ERR_ARGUMENT);
        CHECK(count <= 64 &&
              llm_tokenizer_decode(t, tokens, count, NULL, 0, &back, NULL) != LLM_ERR_ARGUMENT);
    }
    llm_tokenizer_free(t);
    return t != NULL;
}
TEST(gguf_damaged) {
    unsigned i;
    int tokenizer, accepted = 0, refused = 0, turn;
    for (tokenizer = 0; tokenizer < 2; tokenizer++)
        for (i = 0; i < (tokenizer ? 2u : 5u); i++) {
            size_t size, header;
            unsigned char *data = gguf_seed(tokenizer, i, &size);
            header = tokenizer ? size : size < 3000 ? size : 3000;
            for (turn = 0; turn < 800; turn++) {
                static const unsigned char odd[] = {0, 1, 2, 4, 8, 9, 127, 128, 255, ' '};
                llm_model_desc d = files_desc();
                unsigned char *copy = (unsigned char *)plain_alloc(size);
                llm_error err;
                int k, good;
                memset(&err, 0, sizeof err);
                memcpy(copy, data, size);
                for (k = 0; k <= turn % 3; k++) {
                    const uint64_t drawn = llm_random(77 + i, (uint64_t)(turn * 3 + k));
                    unsigned char *at = copy + drawn % (turn % 8 ? header : size);
                    *at = drawn >> 60 & 1 ? odd[drawn >> 40 & 7]
                                          : (unsigned char)(*at ^ 1u << (drawn >> 40 & 7));
                }
                d.dtype = turn % 2 ? LLM_DTYPE_DEFAULT : LLM_F32;
                files_heap.limit = (size_t)1 << 26;
                good = tokenizer ? gguf_use_tokenizer(copy, size, d.allocator, &err)
                                 : gguf_use_model(copy, size, &d, &err);
                CHECK_MSG(good || (err.code != LLM_OK && err.message[0]), "seed %u, turn %d", i,
                          turn);
                CHECK_MSG(files_heap.live == 0 && !files_heap.wrong, "seed %u, turn %d", i, turn);
                if (good) accepted++;
                else refused++;
                free(copy);
            }
            free(data);
        }
    CHECK_MSG(accepted > 100 && refused > 1000, "%d accepted, %d refused", accepted, refused);
}

static void run_gguf_files(void) {
    RUN(gguf_pre_names);
    RUN(gguf_control_among_others);
    RUN(gguf_tokenizers);
    RUN(gguf_round_trips);
    RUN(gguf_yarn_round_trips);
    RUN(gguf_tokenizer_round_trips);
    RUN(gguf_save_refuses);
    RUN(gguf_every_allocation_fails);
    RUN(gguf_every_prefix);
    RUN(gguf_bad_containers);
    RUN(gguf_bad_keys);
    RUN(gguf_bad_tokenizers);
    RUN(gguf_parts);
    RUN(gguf_damaged);
}
