/* Models cloned and copied, tensors by name, hidden states. */

/* ---- what two models have in common ---------------------------------------------------------- */
static int clone_same_tensors(const llm_model *a, const llm_model *b) {
    size_t i, same = llm_model_tensor_count(a) == llm_model_tensor_count(b);
    for (i = 0; same && i < llm_model_tensor_count(a); i++) {
        const llm_tensor x = llm_model_tensor(a, i), y = llm_model_tensor(b, i);
        size_t scales, other, size = llmi_values_size(a, i, &scales);
        same &= !strcmp(x.name, y.name) && x.n_dims == y.n_dims &&
                !memcmp(x.dims, y.dims, sizeof x.dims) && x.dtype == y.dtype &&
                llmi_values_size(b, i, &other) == size && other == scales &&
                !memcmp(a->values[i].data, b->values[i].data, size) &&
                (!scales || !memcmp(a->values[i].scales, b->values[i].scales, scales));
    }
    return (int)same;
}
static int clone_same_logits(const llm_model *a, const llm_model *b) {
    const int V = llm_model_config(a)->vocab_size, T = 9;
    float *x = new_floats((size_t)(T * V)), *y = new_floats((size_t)(T * V));
    int32_t tokens[9];
    int same;
    random_tokens(tokens, 9, V, 6);
    same = llm_model_logits(a, tokens, 1, T, x, NULL) == LLM_OK &&
           llm_model_logits(b, tokens, 1, T, y, NULL) == LLM_OK &&
           same_bits(x, y, (size_t)(T * V));
    free(x);
    free(y);
    return same;
}
/* one matrix is fp8 with scales */
static llm_model *clone_fp8(llm_model **plain, const llm_allocator *allocator) {
    const char *directory = files_directory("clone_fp8");
    llm_model_desc d = model_desc(0, 1, allocator);
    llm_model *model, *got;
    files_weights w;
    files_tensor *t;
    llm_error err;
    char config[1024];
    float scales[6];
    int64_t blocks[2] = {3, 2};
    size_t i, k;
    model = files_uneven(config);
    snprintf(config, sizeof config, "%s",
             files_config(config, "'quantization_config': {'quant_method': 'fp8', 'fmt': 'e4m3', "
                                  "'weight_block_size': [128, 128]}"));
    files_of_model(&w, model);
    t = files_find(&w, "model.layers.0.mlp.up_proj.weight");
    t->dtype = "F8_E4M3";
    t->size /= 4;
    for (i = 0; i < t->size; i++)
        t->data[i] = (unsigned char)((i & 0x7f) == 0x7f ? 0 : i & 0xff);
    for (k = 0; k < 6; k++) scales[k] = 0.001f * (float)(k + 1);
    files_add(&w, "model.layers.0.mlp.up_proj.weight_scale_inv", "F32", 2, blocks, scales, 24);
    files_write(directory, "config.json", config, strlen(config));
    files_write_shards(directory, &w);
    files_write_index(directory, &w, NULL);
    files_free(&w);
    err.message[0] = 0;
    got = llm_model_load(directory, &d, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    CHECK(!got || llm_model_tensor_named(got, "model.layers.0.mlp.up_proj.weight").dtype ==
                      LLM_F8_E4M3);
    *plain = model;
    return got;
}
/* models of all sorts; NULL: no more of them */
static llm_model *clone_source(int i, const llm_allocator *allocator, char what[60]) {
    static const llm_dtype types[] = {LLM_F32, LLM_BF16, LLM_F16, LLM_Q8_0, LLM_Q4_0, LLM_Q5_1};
    const char *directory;
    llm_model_desc d = model_desc(0, 1, allocator);
    llm_model *plain, *got;
    llm_error err;
    llm_config c;
    err.message[0] = 0;
    if (i < 18) {                      /* made in memory, in a type */
        snprintf(what, 60, "kind %d, %s", i % 3, llm_dtype_name(types[i / 3]));
        c = rows_config(i % 3, 45, 20, 1);
        plain = shaken_model(&c, 7, 1, NULL);
        d.dtype = types[i / 3];
        got = llm_model_create(&c, &d, &err);
        CHECK_MSG(got && llm_model_copy(got, plain, &err) == LLM_OK, "%s", err.message);
        llm_model_free(plain);
        return got;
    }
    if (i < 24) {                      /* of a file, mapped */
        static const llm_dtype saved[] = {LLM_F32, LLM_BF16};
        snprintf(what, 60, "kind %d of a directory, %s", i % 3, llm_dtype_name(saved[i / 21]));
        c = rows_config(i % 3, 45, 20, 0);
        directory = files_directory("clone");
        plain = shaken_model(&c, 7, 1, NULL);
        CHECK(llm_model_save(plain, directory, saved[i / 21], &err) == LLM_OK);
    } else if (i < 28) {               /* of GGUF: matrices lie turned, blocks */
        static const llm_dtype saved[] = {LLM_F32, LLM_Q8_0, LLM_Q4_K, LLM_BF16};
        (void)files_directory("gguf");
        snprintf(what, 60, "GGUF, %s", llm_dtype_name(saved[i - 24]));
        plain = gguf_model(i % 2 ? GGUF_MOE : GGUF_GPT2, 1, 5);
        directory = gguf_path;
        CHECK(llm_gguf_save(plain, NULL, gguf_path, saved[i - 24], &err) == LLM_OK);
    } else if (i == 28) {
        snprintf(what, 60, "fp8");
        got = clone_fp8(&plain, allocator);
        llm_model_free(plain);
        return got;
    } else return NULL;
    got = llm_model_load(directory, &d, &err);
    CHECK_MSG(got != NULL, "%s: %s", what, err.message);
    llm_model_free(plain);
    return got;
}

TEST(clones_are_the_same) {
    static const llm_special_tokens special = {1, 2, 3, {3, 5, 4}};
    llm_model *model, *clone = NULL;
    char what[60];
    int i;
    for (i = 0; i < 29; i++) {
        heap h, other;
        llm_model_desc d;
        llm_special_tokens got;
        llm_error err;
        heap_init(&h);
        heap_init(&other);
        model = clone_source(i, &h.allocator, what);
        if (!model) continue;
        CHECK(llm_model_set_special_tokens(model, &special, NULL) == LLM_OK);
        clone = llm_model_clone(model, NULL, &err);
        CHECK_MSG(clone != NULL, "%s: %s", what, err.message);
        CHECK_MSG(clone_same_tensors(model, clone), "%s", what);
        CHECK_MSG(clone_same_logits(model, clone), "%s: other logits", what);
        got = llm_model_special_tokens(clone);
        CHECK(!memcmp(&got, &special, sizeof got));
        CHECK(!memcmp(llm_model_config(model), llm_model_config(clone), sizeof(llm_config)));
        CHECK(clone->n_threads == model->n_threads && clone->isa == model->isa);
        llm_model_free(clone);
        d = model_desc(9, 3, &other.allocator);        /* seed and dtype are not read */
        d.dtype = LLM_Q4_0;
        d.isa = LLM_ISA_SCALAR;
        if (i % 5 == 0)
            EACH_ALLOCATION_FAILS_TO_MAKE(&other, clone, llm_model_clone(model, &d, &err));
        else clone = llm_model_clone(model, &d, &err);
        CHECK(clone && clone->n_threads == 3 && clone->isa == LLM_ISA_SCALAR);
        CHECK_MSG(clone_same_tensors(model, clone), "%s", what);
        if (i == 0) {                  /* each has its own */
            const llm_tensor t = llm_model_tensor(clone, 1);
            const float old = ((float *)t.data)[0];
            ((float *)t.data)[0] = old + 1.0f;
            CHECK(!clone_same_tensors(model, clone));
            ((float *)t.data)[0] = old;
        }
        if (i < 3) {                   /* one is trained, the other stays */
            llm_train_desc train = train_desc(1, 8, 1);
            llm_model *third = llm_model_clone(clone, &d, &err);
            llm_trainer *trainer = third ? new_trainer(third, &train) : NULL;
            int32_t tokens[9];
            random_tokens(tokens, 9, 45, 3);
            CHECK(trainer && llm_trainer_step(trainer, tokens, tokens + 1, NULL, NULL) == LLM_OK);
            llm_trainer_free(trainer);
            CHECK(!clone_same_tensors(clone, third));
            llm_model_free(third);
        }
        llm_model_free(model);         /* it needs nothing of the other */
        CHECK_MSG(h.live == 0 && h.wrong == 0, "%s: %ld blocks", what, h.live);
        model = clone_source(i, NULL, what);
        CHECK_MSG(clone_same_tensors(model, clone), "%s, alone", what);
        llm_model_free(model);
        llm_model_free(clone);
        CHECK_MSG(other.live == 0 && other.wrong == 0, "%s: %ld blocks", what, other.live);
    }
    {
        llm_error err;
        NOT_MADE(LLM_ERR_ARGUMENT, llm_model_clone(NULL, NULL, &err), "NULL");
        model = clone_source(0, NULL, what);
        {
            llm_model_desc d = model_desc(0, 2000, NULL);
            NOT_MADE(LLM_ERR_ARGUMENT, llm_model_clone(model, &d, &err), "n_threads", "2000");
        }
        llm_model_free(model);
    }
}

/* tensor i as f32, as its name says, by llm.h's own reader */
static float *clone_values(const llm_model *model, size_t i) {
    float *x = floats(model->table.rows[i].count);
    llmi_values_read(model, i, x);
    return x;
}
/* to the nearest, of ties the even one */
static float clone_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, 4);
    return x;
}
TEST(copies_of_models) {
    char what[60], from_what[60];
    int i, j;
    for (i = 0; i < 24; i++) {         /* from each to each of the same shapes */
        llm_model *from = clone_source(i, NULL, from_what);
        for (j = i % 3; j < 24; j += 3) {
            const int wide = i < 18, other_wide = j < 18;
            llm_model *to = wide == other_wide ? clone_source(j, NULL, what) : NULL;
            llm_error err;
            size_t k, n;
            if (!to || !from) continue;
            for (k = 0; k < llm_model_tensor_count(to); k++) {
                size_t scales, size = llmi_values_size(to, k, &scales);
                memset(to->values[k].data, 0, size);
            }
            err.message[0] = 0;
            CHECK_MSG(llm_model_copy(to, from, &err) == LLM_OK, "%s", err.message);
            for (k = 0; k < llm_model_tensor_count(to); k++) {
                const llm_tensor a = llm_model_tensor(from, k), b = llm_model_tensor(to, k);
                float *x = clone_values(from, k), *y = clone_values(to, k);
                double most = 0.0;
                int wrong = 0;
                for (n = 0; n < tensor_size(&a); n++) {
                    if (a.dtype == b.dtype || b.dtype == LLM_F32)
                        wrong += memcmp(&x[n], &y[n], 4) != 0;
                    else if (b.dtype == LLM_BF16) wrong += y[n] != clone_bf16(x[n]);
                    if (fabs((double)x[n]) > most) most = fabs((double)x[n]);
                }
                for (n = 0; n < tensor_size(&a); n++)
                    wrong += !(fabs((double)x[n] - (double)y[n]) <=
                               most * (b.dtype == LLM_Q4_0 ? 0.13 : b.dtype == LLM_Q5_1 ? 0.07
                                                                                        : 0.01));
                CHECK_MSG(!wrong, "%s to %s: %s, %d values", from_what, what, b.name, wrong);
                drop(x);
                drop(y);
            }
            llm_model_free(to);
        }
        llm_model_free(from);
    }
    for (i = 24; i < 29; i++) {        /* into turned and into fp8 weights, and out of them */
        llm_model *to, *from, *back;
        llm_model_desc d = model_desc(5, 1, NULL);
        llm_error err;
        size_t k;
        if (i < 28) {
            to = clone_source(i, NULL, what);
            from = gguf_model(i % 2 ? GGUF_MOE : GGUF_GPT2, 1, 8);
        } else to = clone_fp8(&from, NULL);
        if (!to || !from) continue;
        snprintf(what, sizeof what, "model %d", i);
        d.dtype = LLM_F32;
        back = llm_model_create(llm_model_config(from), &d, &err);
        CHECK_MSG(llm_model_copy(to, from, &err) == LLM_OK, "%s: %s", what, err.message);
        CHECK_MSG(llm_model_copy(back, to, &err) == LLM_OK, "%s: %s", what, err.message);
        for (k = 0; k < llm_model_tensor_count(to); k++) {
            const llm_tensor t = llm_model_tensor(to, k);
            float *x = clone_values(from, k), *y = clone_values(to, k), *z = clone_values(back, k);
            const double error = relative_error(y, x, tensor_size(&t));
            CHECK_MSG(error <= (t.dtype == LLM_F32 ? 0.0 : t.dtype == LLM_BF16 ? 0.004
                                : t.dtype == LLM_Q8_0 ? 0.01
                                : t.dtype == LLM_F8_E4M3 ? 0.07 : 0.13),
                      "%s: %s as %s differs by %g", what, t.name, llm_dtype_name(t.dtype), error);
            CHECK_MSG(same_bits(y, z, tensor_size(&t)), "%s: %s, and back", what, t.name);
            drop(x);
            drop(y);
            drop(z);
        }
        llm_model_free(to);
        llm_model_free(from);
        llm_model_free(back);
    }
}
TEST(copies_of_models_refused) {
    static const char *const words[] = {"wte", "wpe", "ln_1.weight", "transformer.h.2.", "lm_head",
                                        "transformer.h.1."};
    const llm_config c = small_config(20, 12, 16, 2, 2);
    heap h;
    llm_model *model = model_in(&h, &c, 3, 1);
    llm_error err;
    int i;
    for (i = 0; i < 7; i++) {
        llm_config other = c;
        llm_model *to, *before;
        if (i == 0) other.vocab_size = 21;
        if (i == 1) other.max_seq_len = 13;
        if (i == 2) other.d_model = 18;
        if (i == 3) other.n_layers = 3;
        if (i == 4) other.tie_embeddings = 0;
        if (i == 5) other.n_layers = 1;
        if (i == 6) {
            other = deepseek_config(0, 0, 20, 12, 0);
        }
        to = shaken_model(&other, 9, 1, NULL);
        before = llm_model_clone(to, NULL, &err);
        CHECK(to && before);
        if (i == 2) {                  /* the first that differs is wte, too */
            REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(to, model, &err), "wte");
            REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(model, to, &err), "wte");
        } else if (i < 6) {
            REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(to, model, &err), words[i]);
            REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(model, to, &err), words[i]);
        } else REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(to, model, &err), "tensor");
        CHECK(clone_same_tensors(to, before));
        if (i == 0) {
            REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(NULL, model, &err), "NULL");
            REFUSED(LLM_ERR_ARGUMENT, llm_model_copy(to, NULL, &err), "NULL");
            CHECK(llm_model_copy(to, to, &err) == LLM_OK && clone_same_tensors(to, before));
        }
        llm_model_free(to);
        llm_model_free(before);
    }
    {
        llm_model *from = shaken_model(&c, 9, 1, NULL);
        EACH_ALLOCATION_FAILS(&h, llm_model_copy(model, from, &err));
        CHECK(clone_same_tensors(model, from));
        llm_model_free(from);
    }
    llm_model_free(model);
    CHECK(h.live == 0 && h.wrong == 0);
}

TEST(tensors_by_name) {
    char what[60];
    int i;
    for (i = 0; i < 3; i++) {
        llm_model *model = clone_source(i, NULL, what);
        llm_tensor t;
        size_t k;
        for (k = 0; k < llm_model_tensor_count(model); k++) {
            const llm_tensor want = llm_model_tensor(model, k);
            t = llm_model_tensor_named(model, want.name);
            CHECK(t.data == want.data && !strcmp(t.name, want.name) && t.dtype == want.dtype &&
                  t.n_dims == want.n_dims && !memcmp(t.dims, want.dims, sizeof t.dims));
        }
        for (k = 0; k < 5; k++) {
            static const char *const none[] = {"", "wte", "transformer.wte.weight ",
                                               "lm_head.weigh", NULL};
            t = llm_model_tensor_named(model, none[k]);
            CHECK(!t.data && !t.name && !t.n_dims && !t.dtype);
        }
        t = llm_model_tensor_named(NULL, "transformer.wte.weight");
        CHECK(!t.data && !t.name);
        llm_model_free(model);
    }
}

/* ---- hidden states --------------------------------------------------------------------------- */
static const float *clone_named(const llm_model *model, const char *name) {
    const llm_tensor t = llm_model_tensor_named(model, name);
    CHECK_MSG(t.data != NULL, "there is no %s", name);
    return (const float *)t.data;
}
/* the final norm and the head by definition: y (C) is what the norm gives, logits (V) */
static void hidden_head(const llm_model *model, const float *x, int norm, double *y,
                        double *logits) {
    const llm_config *c = llm_model_config(model);
    const int gpt2 = c->arch == LLM_ARCH_GPT2, C = c->d_model;
    const float *w = clone_named(model, gpt2 ? "transformer.ln_f.weight" : "model.norm.weight"),
                *b = gpt2 ? clone_named(model, "transformer.ln_f.bias") : NULL,
                *head = clone_named(model, !c->tie_embeddings ? "lm_head.weight"
                                           : gpt2 ? "transformer.wte.weight"
                                                  : "model.embed_tokens.weight");
    double mean = 0.0, square = 0.0;
    int i, v;
    for (i = 0; i < C && gpt2; i++) mean += (double)x[i] / C;
    for (i = 0; i < C; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / C;
    for (i = 0; i < C; i++)
        y[i] = !norm ? (double)x[i]
                     : ((double)x[i] - mean) / sqrt(square + (double)c->norm_eps) * (double)w[i] +
                           (b ? (double)b[i] : 0.0);
    for (v = 0; v < c->vocab_size; v++)
        for (i = 0, logits[v] = 0.0; i < C; i++) logits[v] += y[i] * (double)head[v * C + i];
}
TEST(hidden_states_by_composition) {
    enum { B = 2, T = 21, V = 37, MOST = 40 };
    int kind, l, i, n;
    for (kind = 0; kind < 6; kind++) {
        llm_config c = session_config(kind % 3, V, 30, MOST, 5);
        llm_train_desc d = train_desc(B, T, 1);
        llm_model *model;
        llm_trainer *trainer;
        float hidden[B * T * MOST], again[B * T * MOST], logits[B * T * V];
        double y[MOST], want[V];
        int32_t tokens[B * T];
        int C;
        c.n_layers = 3;
        c.tie_embeddings = kind < 3;
        C = c.d_model;
        model = shaken_model(&c, 13 + (uint64_t)kind, 1 + kind % 2, NULL);
        trainer = model ? new_trainer(model, &d) : NULL;
        if (!trainer) return;
        random_tokens(tokens, B * T, V, 8);
        CHECK(llm_trainer_forward(trainer, tokens, tokens, NULL, NULL) == LLM_OK);
        for (l = 0; l <= 3; l++) {
            llm_config less = c;
            llm_model *lower = NULL;
            llm_error err;
            double error;
            size_t k;
            err.message[0] = 0;
            CHECK_MSG(llm_model_hidden(model, tokens, B, T, l, hidden, &err) == LLM_OK, "%s",
                      err.message);
            /* a text of its own, and a shorter one */
            CHECK(llm_model_hidden(model, tokens + T, 1, T - 4, l, again, NULL) == LLM_OK);
            CHECK(relative_error(again, hidden + T * C, (size_t)((T - 4) * C)) < 1e-5);
            if (l == 0) {
                const float *e = clone_named(model, kind % 3 ? "model.embed_tokens.weight"
                                                             : "transformer.wte.weight"),
                            *p = kind % 3 ? NULL : clone_named(model, "transformer.wpe.weight");
                for (n = 0; n < B * T; n++)
                    for (i = 0; i < C; i++) {
                        const float x = e[tokens[n] * C + i] + (p ? p[n % T * C + i] : 0.0f);
                        CHECK(hidden[n * C + i] == x);
                    }
                continue;
            }
            /* the same layers in a model that has no more of them */
            less.n_layers = l;
            lower = shaken_model(&less, 1, 1, NULL);
            CHECK(lower != NULL);
            if (!lower) return;
            for (k = 0; k < llm_model_tensor_count(lower); k++) {
                const llm_tensor to = llm_model_tensor(lower, k);
                memcpy((void *)to.data, clone_named(model, to.name),
                       tensor_size(&to) * sizeof(float));
            }
            CHECK(llm_model_logits(lower, tokens, B, T, logits, NULL) == LLM_OK);
            CHECK(llm_model_hidden(lower, tokens, B, T, l, again, NULL) == LLM_OK);
            for (n = 0; n < B * T; n++) {
                float got[V], normed[MOST];
                hidden_head(model, hidden + n * C, l < 3, y, want);
                for (i = 0; i < V; i++) got[i] = (float)want[i];
                for (i = 0; i < C; i++) normed[i] = (float)y[i];
                error = relative_error(got, logits + n * V, V);
                CHECK_MSG(error < 2e-5, "kind %d, layer %d, position %d: logits differ by %g", kind,
                          l, n, error);
                error = relative_error(normed, again + n * C, (size_t)C);
                CHECK_MSG(error < 2e-5, "kind %d, layer %d, position %d: %g", kind, l, n, error);
            }
            llm_model_free(lower);
            /* the trainer's stream */
            if (l < 3) {
                error = relative_error(hidden, llmi_run_x(&trainer->run, l), (size_t)(B * T * C));
                CHECK_MSG(error < 2e-5, "kind %d, layer %d: the trainer's differs by %g", kind, l,
                          error);
            }
        }
        llm_trainer_free(trainer);
        llm_model_free(model);
    }
}
TEST(hidden_states_refused) {
    const llm_config c = small_config(20, 12, 16, 2, 2);
    heap h;
    llm_model *model = model_in(&h, &c, 3, 1);
    float hidden[2 * 12 * 16];
    int32_t tokens[24];
    llm_error err;
    size_t i;
    random_tokens(tokens, 24, 20, 1);
    memset(hidden, 0x55, sizeof hidden);
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 2, 12, 3, hidden, &err), "layer", "3",
            "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 2, 12, -1, hidden, &err), "layer",
            "-1", "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 2, 13, 1, hidden, &err), "13", "12");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 0, 12, 1, hidden, &err), "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 2, 0, 1, hidden, &err), "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, NULL, 2, 12, 1, hidden, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 2, 12, 1, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(NULL, tokens, 2, 12, 1, hidden, &err), "NULL");
    tokens[17] = 20;
    REFUSED(LLM_ERR_ARGUMENT, llm_model_hidden(model, tokens, 2, 12, 1, hidden, &err), "20", "17");
    for (i = 0; i < sizeof hidden; i++) CHECK(((unsigned char *)hidden)[i] == 0x55);
    tokens[17] = 2;
    EACH_ALLOCATION_FAILS(&h, llm_model_hidden(model, tokens, 2, 12, 2, hidden, &err));
    llm_model_free(model);
    CHECK(h.live == 0 && h.wrong == 0);
}

static void run_clone(void) {
    RUN(clones_are_the_same);
    RUN(copies_of_models);
    RUN(copies_of_models_refused);
    RUN(tensors_by_name);
    RUN(hidden_states_by_composition);
    RUN(hidden_states_refused);
}
