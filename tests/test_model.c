/* The model: against transformers (tests/data, written by tools/make_goldens.py), presets and
 * counts, bad input, memory that runs out. */

/* sanitizers end the program where malloc is asked for too much */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  #define MALLOC_ABORTS
#elif defined(__has_feature)
  #if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                       \
      __has_feature(memory_sanitizer)
    #define MALLOC_ABORTS
  #endif
#endif

/* ---- goldens of GPT-2, DeepSeek-V2, -V3 ----------------------------------------------------- */
static const char *const golden_cases[] = {
    "gpt2_odd",          "gpt2_inner",         "gpt2_long",       "gpt2_untied",
    "gpt2_smooth",       "gpt2_wide",          "gpt2_one",        "deepseek_dense",
    "deepseek_full_query", "deepseek_odd",     "deepseek_one_head", "deepseek_bias",
    "deepseek_long",     "deepseek_moe",       "deepseek_groups", "deepseek_negative",
    "deepseek_raw_weights", "deepseek_smooth", "deepseek_yarn",   "deepseek_yarn_one",
    "deepseek_yarn_all", "deepseek_mtp",       "deepseek_mtp_two", "deepseek_mtp_dense_trunk",
    "deepseek_v2",       "deepseek_v2_groups", "gpt2_gelu",       "gpt2_relu",
    "gpt2_silu"};
#define N_GOLDEN_CASES ((int)(sizeof golden_cases / sizeof golden_cases[0]))

TEST(model_golden_logits) {
    int c;
    for (c = 0; c < N_GOLDEN_CASES; c++) {
        golden g = golden_open(golden_cases[c], "golden.safetensors");
        const golden_tensor tokens = golden_get(&g, "tokens"), targets = golden_get(&g, "targets");
        const golden_tensor logits = golden_get(&g, "logits"),
                            logprobs = golden_get(&g, "logprobs");
        llm_model *model = golden_model(golden_cases[c], 2, NULL);
        if (model && logits.count) {
            float *out = new_floats(logits.count), *lp = new_floats(logprobs.count);
            double error;
            llm_error err;
            CHECK(llm_model_logits(model, tokens.i, tokens.dims[0], tokens.dims[1], out, &err) ==
                  LLM_OK);
            error = relative_error(out, logits.f, logits.count);
            CHECK_MSG(error <= 1e-5, "%s: logits differ by %g", golden_cases[c], error);
            CHECK(llm_model_score(model, tokens.i, targets.i, tokens.dims[0], tokens.dims[1], lp,
                                  &err) == LLM_OK);
            error = relative_error(lp, logprobs.f, logprobs.count);
            CHECK_MSG(error <= 1e-5, "%s: log-probabilities differ by %g", golden_cases[c], error);
            free(lp);
            free(out);
        }
        llm_model_free(model);
        golden_close(&g);
    }
}

/* the losses of forward, or of evaluate, against PyTorch's */
static void golden_losses(const golden *g, const char *name, const llm_train_stats *stats,
                          int depth) {
    const golden_tensor loss = golden_get(g, "loss");
    size_t i;
    CHECK_MSG(fabs((double)stats->loss - (double)loss.f[0]) <= 1e-5 * (double)loss.f[0],
              "%s: loss %.8g instead of %.8g", name, (double)stats->loss, (double)loss.f[0]);
    if (depth) {
        const golden_tensor parts = golden_get(g, "parts");
        CHECK(parts.count == (size_t)depth + 1);
        CHECK(fabs((double)stats->main_loss - (double)parts.f[0]) <= 1e-5 * (double)parts.f[0]);
        for (i = 1; i < parts.count; i++)
            CHECK_MSG(fabs((double)stats->mtp_loss[i - 1] - (double)parts.f[i]) <=
                          1e-5 * (double)parts.f[i],
                      "%s: MTP loss %lu is %g, not %g", name, (unsigned long)i,
                      (double)stats->mtp_loss[i - 1], (double)parts.f[i]);
    }
}

static void golden_gradients(const char *name, const llmi_kernels *kernels, int recompute) {
    golden g = golden_open(name, "golden.safetensors");
    const golden_tensor tokens = golden_get(&g, "tokens"), targets = golden_get(&g, "targets");
    const golden_tensor smoothing = golden_get(&g, "label_smoothing");
    const golden_tensor correct = golden_get(&g, "correct"), logprobs = golden_get(&g, "logprobs");
    llm_model *model = golden_model(name, 2, NULL);
    llm_train_desc d = train_desc(tokens.dims[0], tokens.dims[1], 2);
    llm_trainer *trainer;
    llm_train_stats stats;
    llm_error err;
    size_t i, j;
    double scale, n_valid = 0.0, nll = 0.0;
    d.label_smoothing = smoothing.count ? smoothing.f[0] : 0.0f;
    d.router_aux_alpha = LLM_OFF;      /* the goldens are without a balance loss */
    d.recompute = recompute;
    err.message[0] = 0;
    trainer = model ? llm_trainer_create(model, &d, &err) : NULL;
    CHECK_MSG(trainer != NULL, "%s: %s", name, err.message);
    if (trainer) {
        trainer_use(trainer, kernels);
        CHECK(llm_trainer_evaluate(trainer, tokens.i, targets.i, tokens.dims[0], tokens.dims[1],
                                   &stats, &err) == LLM_OK);
        golden_losses(&g, name, &stats, model->config.mtp_depth);
        CHECK(llm_trainer_forward(trainer, tokens.i, targets.i, &stats, &err) == LLM_OK);
        golden_losses(&g, name, &stats, model->config.mtp_depth);
        for (i = 0; i < targets.count; i++) {
            n_valid += targets.i[i] != LLM_IGNORE_INDEX;
            nll -= (double)logprobs.f[i];
        }
        CHECK_MSG(fabs((double)stats.accuracy * n_valid - (double)correct.i[0]) < 1e-3,
                  "%s %s: accuracy %g of %g instead of %d", name, kernels->name,
                  (double)stats.accuracy, n_valid, (int)correct.i[0]);
        CHECK_MSG(fabs(log((double)stats.perplexity) - nll / n_valid) <=
                      1e-5 * (1.0 + nll / n_valid),
                  "%s %s: perplexity %g instead of %g", name, kernels->name,
                  (double)stats.perplexity, exp(nll / n_valid));
        CHECK(llm_trainer_backward(trainer, &err) == LLM_OK);
        scale = llm_trainer_gradient_scale(trainer);
        CHECK(fabs(scale * n_valid - 1.0) < 1e-12);
        for (i = 0; i < llm_model_tensor_count(model); i++) {
            const llm_tensor t = llm_trainer_gradient(trainer, i), w = llm_model_tensor(model, i);
            char key[128];
            golden_tensor expected;
            float *scaled = new_floats(tensor_size(&t));
            double error;
            CHECK(t.name && w.name && strcmp(t.name, w.name) == 0 && t.n_dims == w.n_dims);
            snprintf(key, sizeof key, "grad.%s", t.name);
            if (!t.data) {             /* a router's bias */
                CHECK(strstr(t.name, "e_score_correction_bias") != NULL);
                free(scaled);
                continue;
            }
            expected = golden_get(&g, key);
            CHECK_MSG(expected.count == tensor_size(&t), "%s: %s has %lu values instead of %lu",
                      name, key, (unsigned long)tensor_size(&t), (unsigned long)expected.count);
            for (j = 0; j < tensor_size(&t); j++)
                scaled[j] = (float)(scale * (double)((float *)t.data)[j]);
            error = expected.count == tensor_size(&t)
                        ? relative_error(scaled, expected.f, expected.count)
                        : 1.0;
            CHECK_MSG(error <= 2e-5, "%s %s: %s differs by %g", name, kernels->name, key, error);
            free(scaled);
        }
    }
    llm_trainer_free(trainer);
    llm_model_free(model);
    golden_close(&g);
}

TEST(model_golden_gradients) {
    const llmi_kernels *kernels;
    int c, k;
    for (k = 0; (kernels = kernels_at(k)) != NULL; k++)
        for (c = 0; c < N_GOLDEN_CASES; c++) golden_gradients(golden_cases[c], kernels, 0);
}
TEST(model_golden_gradients_recomputed) {
    int c;
    for (c = 0; c < N_GOLDEN_CASES; c++) golden_gradients(golden_cases[c], kernels_at(0), 1);
}

TEST(model_golden_config) {
    llm_model *model = golden_model("gpt2_inner", 1, NULL);
    if (model) {
        const llm_config *c = llm_model_config(model);
        CHECK(c->arch == LLM_ARCH_GPT2 && c->vocab_size == 37 && c->max_seq_len == 11 &&
              c->d_model == 10);
        CHECK(c->n_layers == 3 && c->n_heads == 2 && c->d_ffn == 23 && c->tie_embeddings == 1);
    }
    llm_model_free(model);
    model = golden_model("gpt2_untied", 1, NULL);
    if (model)
        CHECK(llm_model_config(model)->tie_embeddings == 0 && llm_model_config(model)->d_ffn == 32);
    llm_model_free(model);
    model = golden_model("gpt2_odd", 1, NULL);
    if (model) CHECK(fabsf(llm_model_config(model)->norm_eps - 1e-4f) < 1e-9f);
    llm_model_free(model);
}

/* ---- presets and counts ---------------------------------------------------------------------- */
TEST(config_presets) {
    /* arXiv:2005.14165 table 2.1, but for the width of 13B: 40 heads of 128 are 5120, not 5140 */
    static const struct {
        const char *name;
        int layers, width, positions;
        double printed;
    } paper[] = {
        {"gpt2", 12, 768, 1024, 124439808.0},        {"gpt2-medium", 24, 1024, 1024, 354823168.0},
        {"gpt2-large", 36, 1280, 1024, 774030080.0}, {"gpt2-xl", 48, 1600, 1024, 1557611200.0},
        {"gpt3-small", 12, 768, 2048, 125e6},        {"gpt3-medium", 24, 1024, 2048, 350e6},
        {"gpt3-large", 24, 1536, 2048, 760e6},       {"gpt3-xl", 24, 2048, 2048, 1.3e9},
        {"gpt3-2.7b", 32, 2560, 2048, 2.7e9},        {"gpt3-6.7b", 32, 4096, 2048, 6.7e9},
        {"gpt3-13b", 40, 5120, 2048, 13e9},          {"gpt3-175b", 96, 12288, 2048, 175e9}};
    llm_config c;
    llm_error err;
    int i, n;
    for (i = 0; i < 12; i++) {
        const uint64_t C = (uint64_t)paper[i].width, V = 50257;
        const uint64_t attention = (C * 3 * C + 3 * C) + (C * C + C),
                       mlp = (C * 4 * C + 4 * C) + (4 * C * C + C);
        const uint64_t block = 2 * C + attention + 2 * C + mlp;
        const uint64_t count =
            V * C + (uint64_t)paper[i].positions * C + (uint64_t)paper[i].layers * block + 2 * C;
        memset(&c, 0x55, sizeof c);
        CHECK_MSG(llm_config_preset(&c, paper[i].name, &err) == LLM_OK, "%s", paper[i].name);
        CHECK_MSG(c.n_layers == paper[i].layers && c.d_model == paper[i].width &&
                      c.max_seq_len == paper[i].positions && c.vocab_size == 50257 &&
                      c.tie_embeddings == 1 && c.arch == LLM_ARCH_GPT2,
                  "%s: not the paper's sizes", paper[i].name);
        CHECK_MSG(c.embd_pdrop == 0.0f && c.attn_pdrop == 0.0f && c.resid_pdrop == 0.0f,
                  "%s: dropout", paper[i].name);
        CHECK_MSG(llm_config_validate(&c, &err) == LLM_OK, "%s: %s", paper[i].name, err.message);
        CHECK_MSG(llm_config_param_count(&c) == count, "%s: %llu parameters instead of %llu",
                  paper[i].name, (unsigned long long)llm_config_param_count(&c),
                  (unsigned long long)count);
        CHECK(llm_config_active_param_count(&c) == count && llm_config_mtp_param_count(&c) == 0);
        if (i < 4) CHECK_MSG((double)count == paper[i].printed, "%s", paper[i].name);
        else
            CHECK_MSG(fabs((double)count / paper[i].printed - 1.0) < 0.025, "%s: %.4g",
                      paper[i].name, (double)count);
    }
    for (n = 0; llm_config_preset_name(n); n++)
        CHECK(llm_config_preset(&c, llm_config_preset_name(n), NULL) == LLM_OK);
    CHECK_MSG(n >= 13, "%d presets", n);
    CHECK(strcmp(llm_config_preset_name(0), "gpt2-tiny") == 0 ||
          strcmp(llm_config_preset_name(0), "gpt2") == 0);
    CHECK(llm_config_preset_name(-1) == NULL && llm_config_preset_name(n + 1) == NULL);
    CHECK(llm_config_preset(&c, "gpt2-tiny", NULL) == LLM_OK);
    CHECK(c.d_model % c.n_heads == 0);

    err.code = LLM_OK;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_preset(&c, "gpt2-mediun", &err), "gpt2-mediun",
            "gpt2-medium");
    REFUSED(LLM_ERR_ARGUMENT, llm_config_preset(&c, "gpt3-175", &err), "gpt3-175b");
    REFUSED(LLM_ERR_ARGUMENT, llm_config_preset(&c, "", &err), "");
    REFUSED(LLM_ERR_ARGUMENT, llm_config_preset(&c, NULL, &err), "");
    REFUSED(LLM_ERR_ARGUMENT, llm_config_preset(NULL, "gpt2", &err), "");
    CHECK(
        llm_config_preset(
            &c,
            "a name that is much, much longer than any preset's name could be, and then some more",
            NULL) == LLM_ERR_ARGUMENT);
}

/* what deepseek-ai/DeepSeek-V3's config.json says; the other presets have neither YaRN nor a
 * factor */
TEST(config_of_most_modules) {
    llm_config c = deepseek_config(0, 0, 30, 16, 4);
    llm_model *model = llm_model_create(&c, NULL, NULL);
    CHECK(llm_config_validate(&c, NULL) == LLM_OK && model != NULL);
    CHECK(llm_config_mtp_param_count(&c) % 4 == 0 && llm_config_mtp_param_count(&c) > 0);
    llm_model_free(model);
}
TEST(config_of_deepseek_v3) {
    static const char *const small[] = {"deepseek-small", "deepseek-base", "deepseek-large",
                                        "deepseek-xl", "deepseek-moe-150m", "deepseek-tiny"};
    llm_config c;
    llm_error err;
    int i;
    CHECK(llm_config_preset(&c, "deepseek-v3", &err) == LLM_OK);
    CHECK(c.vocab_size == 129280 && c.max_seq_len == 163840 && c.d_model == 7168);
    CHECK(c.n_layers == 61 && c.n_heads == 128 && c.d_ffn == 18432 && !c.tie_embeddings);
    CHECK(c.q_lora_rank == 1536 && c.kv_lora_rank == 512 && c.qk_nope_head_dim == 128);
    CHECK(c.qk_rope_head_dim == 64 && c.v_head_dim == 128 && !c.attention_bias);
    CHECK(c.n_routed_experts == 256 && c.n_shared_experts == 1 && c.num_experts_per_tok == 8);
    CHECK(c.n_group == 8 && c.topk_group == 4 && c.moe_d_ffn == 2048 && c.first_k_dense == 3);
    CHECK(c.routed_scaling_factor == 2.5f && c.norm_topk_prob == 1 && c.mtp_depth == 1);
    CHECK(c.yarn_factor == 40.0f && c.yarn_original_max_seq_len == 4096);
    CHECK(c.yarn_mscale == 1.0f && c.yarn_mscale_all_dim == 1.0f);
    for (i = 0; i < 6; i++) {
        CHECK_MSG(llm_config_preset(&c, small[i], &err) == LLM_OK, "%s", err.message);
        CHECK_MSG(c.yarn_factor == 0.0f && c.tie_embeddings, "%s", small[i]);
        CHECK_MSG(c.routed_scaling_factor == 0.0f || c.routed_scaling_factor == 1.0f, "%s",
                  small[i]);
    }
}

/* Published counts. "Active" leaves out what the publisher leaves out: embedding, or head, too. */
/* Publishers round, V2-Lite's and GigaChat3's active parameters to two digits. */
TEST(config_of_published_models) {
    static const struct {
        const char *name;
        double total, active;
        int without;                   /* of embedding and head, how many the active ones lack */
        int without_total;             /* and the total */
        llm_scoring scoring;
    } models[] = {
        {"deepseek-v3", 671.0e9, 37.0e9, 1, 0, LLM_SCORING_SIGMOID},
        {"deepseek-v2", 235.7e9, 21.4e9, 0, 0, LLM_SCORING_SOFTMAX},
        {"deepseek-v2-lite", 15.7e9, 2.4e9, 1, 0, LLM_SCORING_SOFTMAX},
        {"moonlight-16b-a3b", 15.29e9, 2.24e9, 2, 2, LLM_SCORING_SIGMOID},
        {"gigachat3-10b-a1.8b", 10672535616.0, 1.8e9, 0, 0, LLM_SCORING_SIGMOID},
        {"joyai-llm-flash", 48.4e9, 2.775e9, 2, 2, LLM_SCORING_SIGMOID},
        {"kimi-k2", 1.026e12, 32.86e9, 0, 0, LLM_SCORING_SIGMOID}};
    size_t i;
    for (i = 0; i < LLMI_COUNT(models); i++) {
        llm_config c;
        llm_error err;
        double vocabulary, total, active;
        CHECK_MSG(llm_config_preset(&c, models[i].name, &err) == LLM_OK &&
                      llm_config_validate(&c, &err) == LLM_OK, "%s", err.message);
        vocabulary = (double)c.vocab_size * (double)c.d_model;
        total = (double)llm_config_param_count(&c) - models[i].without_total * vocabulary;
        active = (double)llm_config_active_param_count(&c) - models[i].without * vocabulary;
        CHECK_MSG(fabs(total / models[i].total - 1.0) <= 0.01, "%s: %g parameters", models[i].name,
                  total);
        CHECK_MSG(fabs(active / models[i].active - 1.0) <= 0.022, "%s: %g of them active",
                  models[i].name, active);
        CHECK(c.scoring_func == models[i].scoring && c.tie_embeddings == 0);
    }
    {   /* what its files hold, less what the MTP module has a copy of: embedding and head */
        const uint64_t attention = 1536 * 32 * 192 + 1536 * (512 + 64) + 512 +
                                   512 * 32 * (128 + 192) + 32 * 192 * 1536;
        const uint64_t experts = 64 * 1536 + 64 + UINT64_C(65) * 3 * 1280 * 1536;
        llm_config c;
        CHECK(llm_config_preset(&c, "gigachat3-10b-a1.8b", NULL) == LLM_OK);
        CHECK(llm_config_param_count(&c) == UINT64_C(10672535616));
        CHECK(llm_config_mtp_param_count(&c) ==
              2 * 1536 * 1536 + 3 * 1536 + attention + 2 * 1536 + experts);
    }
}

TEST(config_counts_what_is_allocated) {
    int variant;
    for (variant = 0; variant < 24; variant++) {
        llm_config c =
            small_config(17 + variant, 5 + variant % 7, 4 * (1 + variant % 5), 1 + variant % 4, 2);
        llm_model *model;
        llm_error err;
        uint64_t count = 0;
        size_t i, j;
        if (variant % 3 == 1) c.d_ffn = 7 + variant;
        c.tie_embeddings = variant % 2;
        model = llm_model_create(&c, NULL, &err);
        CHECK_MSG(model != NULL, "variant %d: %s", variant, err.message);
        if (!model) continue;
        for (i = 0; i < llm_model_tensor_count(model); i++) {
            const llm_tensor t = llm_model_tensor(model, i);
            count += tensor_size(&t);
            CHECK(t.data != NULL && t.dtype == LLM_F32 && t.n_dims >= 1 && t.n_dims <= 4);
            for (j = 0; j < i; j++) CHECK(strcmp(t.name, llm_model_tensor(model, j).name) != 0);
        }
        CHECK_MSG(count == llm_config_param_count(&c), "variant %d: %llu allocated, %llu counted",
                  variant, (unsigned long long)count,
                  (unsigned long long)llm_config_param_count(&c));
        CHECK(llm_model_tensor_count(model) ==
              (size_t)(2 + 12 * c.n_layers + 2 + !c.tie_embeddings));
        CHECK(llm_model_tensor(model, i).data == NULL && llm_model_tensor(model, i).name == NULL);
        CHECK(llm_config_cache_bytes(&c, 0, LLM_F32) ==
              (size_t)c.n_layers * 2 * (size_t)c.d_model * (size_t)c.max_seq_len * 4);
        CHECK(llm_config_cache_bytes(&c, 3, LLM_F32) ==
              (size_t)c.n_layers * 2 * (size_t)c.d_model * 3 * 4);
        llm_model_free(model);
    }
    {
        llm_config c = small_config(10, 8, 12, 1, 5);
        CHECK(llm_config_param_count(&c) == 0 && llm_config_cache_bytes(&c, 0, LLM_F32) == 0);
        CHECK(llm_config_param_count(NULL) == 0);
        c.n_heads = 4;
        CHECK(llm_config_param_count(&c) != 0 && llm_config_cache_bytes(&c, 0, LLM_I32) == 0);
    }
}

TEST(model_initialisation) {
    llm_config c = small_config(400, 64, 64, 3, 4);
    const llm_model_desc one = model_desc(5, 1, NULL), three = model_desc(5, 3, NULL),
                         other = model_desc(6, 1, NULL);
    llm_model *a = llm_model_create(&c, &one, NULL), *b = llm_model_create(&c, &three, NULL);
    llm_model *d = llm_model_create(&c, &other, NULL);
    size_t i, j;
    CHECK(a && b && d);
    for (i = 0; a && b && d && i < llm_model_tensor_count(a); i++) {
        const llm_tensor t = llm_model_tensor(a, i);
        const float *x = (const float *)t.data;
        const size_t n = tensor_size(&t);
        double sum = 0.0, squares = 0.0;
        CHECK_MSG(same_bits(x, (const float *)llm_model_tensor(b, i).data, n),
                  "%s depends on threads", t.name);
        for (j = 0; j < n; j++) {
            sum += (double)x[j];
            squares += (double)x[j] * (double)x[j];
        }
        if (t.n_dims == 1) {
            const double value = strstr(t.name, "ln_") && strstr(t.name, ".weight") ? 1.0 : 0.0;
            for (j = 0; j < n; j++) CHECK_MSG((double)x[j] == value, "%s is not %g", t.name, value);
        } else {
            const double std = strstr(t.name, "c_proj") ? 0.02 / sqrt(6.0) : 0.02;
            CHECK_MSG(fabs(sqrt(squares / (double)n) / std - 1.0) < 4.0 / sqrt(2.0 * (double)n),
                      "%s: standard deviation %g instead of %g", t.name, sqrt(squares / (double)n),
                      std);
            CHECK_MSG(fabs(sum / (double)n) < 4.5 * std / sqrt((double)n), "%s: mean %g", t.name,
                      sum / (double)n);
            CHECK_MSG(!same_bits(x, (const float *)llm_model_tensor(d, i).data, n),
                      "%s: seed has no effect", t.name);
        }
    }
    llm_model_free(a);
    llm_model_free(b);
    llm_model_free(d);
}

/* ---- bad input ------------------------------------------------------------------------------- */
TEST(config_impossible) {
    const llm_config good = small_config(50, 16, 12, 2, 3);
    llm_config c;
    llm_error err;
    heap h;
    int i;
    static const field_value bad[] = {
        BOUNDED(llm_config, vocab_size, 0, "1"), BOUNDED(llm_config, vocab_size, -7, "1"),
        BOUNDED(llm_config, max_seq_len, 0, "1"), BOUNDED(llm_config, max_seq_len, -1, "1"),
        BOUNDED(llm_config, d_model, 0, "1"), BOUNDED(llm_config, d_model, -12, "1"),
        BOUNDED(llm_config, d_model, -2147483648, "1"), BOUNDED(llm_config, n_layers, 0, "1"),
        BOUNDED(llm_config, n_layers, -2147483647, "1"), BOUNDED(llm_config, n_heads, 0, "1"),
        BOUNDED(llm_config, n_heads, -3, "1"),
        {offsetof(llm_config, n_heads), 0, 5, {"d_model", "12", "5"}},
        BOUNDED(llm_config, n_heads, 13, "12"), BOUNDED(llm_config, d_ffn, -4, "1"),
        BOUNDED(llm_config, n_routed_experts, 4, NULL), BOUNDED(llm_config, mtp_depth, 2, NULL)};
    heap_init(&h);
    for (i = 0; i < (int)(sizeof bad / sizeof bad[0]); i++) {
        const llm_model_desc d = model_desc(0, 1, &h.allocator);
        c = good;
        set_field(&c, &bad[i]);
        REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), WORDS(bad[i]));
        NOT_MADE(LLM_ERR_ARGUMENT, llm_model_create(&c, &d, &err), WORDS(bad[i]));
        CHECK(llm_config_param_count(&c) == 0);
    }
    for (i = 0; i < 9; i++) {
        static const float probability[3] = {1.0f, -0.1f, (float)NAN};
        const float value = probability[i % 3];
        const char *name = i < 3 ? "embd_pdrop" : i < 6 ? "attn_pdrop" : "resid_pdrop";
        c = good;
        if (i < 3) c.embd_pdrop = value;
        else if (i < 6) c.attn_pdrop = value;
        else c.resid_pdrop = value;
        REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), name,
                i % 3 == 0 ? "1" : i % 3 == 1 ? "-0.1" : "nan");
    }
    c = good;
    c.norm_eps = -1.0f;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "norm_eps", "-1");
    c.norm_eps = (float)NAN;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "norm_eps");
    c = good;
    c.arch = LLM_ARCH_NONE;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&c, &err), "arch", "0");
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(NULL, &err), "NULL");
    CHECK(llm_config_validate(NULL, NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_model_create(NULL, NULL, &err) == NULL && err.code == LLM_ERR_ARGUMENT);
    CHECK(h.live == 0 && h.calls == 0);
}

TEST(model_larger_than_memory) {
    llm_config c =
        small_config(2000000000, 16, 1 << 20, 1, 1); /* 8 PiB: more than an address space has */
    llm_error err;
    llm_model *model;
    heap h;
    llm_model_desc d;
    memset(&err, 0, sizeof err);
    heap_init(&h);
    d = model_desc(0, 1, &h.allocator);
    model = llm_model_create(&c, &d, &err);
    CHECK(model == NULL && (err.code == LLM_ERR_MEMORY || err.code == LLM_ERR_ARGUMENT));
    CHECK_MSG(err.message[0] != 0, "no message");
    CHECK(h.live == 0);
    llm_model_free(model);
#ifndef MALLOC_ABORTS
    memset(&err, 0, sizeof err);
    model = llm_model_create(&c, NULL, &err);
    CHECK(model == NULL && (err.code == LLM_ERR_MEMORY || err.code == LLM_ERR_ARGUMENT));
    llm_model_free(model);
#endif
    /* every product of sizes at its largest: refused, or counted without wrapping */
    c = small_config(INT_MAX, INT_MAX, INT_MAX, INT_MAX, 1);
    c.d_ffn = INT_MAX;
    c.tie_embeddings = 0;
    memset(&err, 0, sizeof err);
    CHECK(llm_model_create(&c, &d, &err) == NULL && err.code == LLM_ERR_ARGUMENT &&
          err.message[0] != 0);
    CHECK(llm_config_param_count(&c) == 0 && llm_config_cache_bytes(&c, INT_MAX, LLM_F32) == 0);
    c = small_config(1 << 30, 1 << 20, 1 << 20, 9999, 1);
    c.d_ffn = 1 << 24;
    c.tie_embeddings = 0;
    if (llm_config_validate(&c, NULL) == LLM_OK) {
        const double C = 1048576.0, F = 16777216.0;
        const double block = 4.0 * C * C + 2.0 * C * F + 9.0 * C + F;
        const double count = 2.0 * 1073741824.0 * C + C * C + 9999.0 * block + 2.0 * C;
        CHECK(fabs((double)llm_config_param_count(&c) / count - 1.0) < 1e-9);
        CHECK(llm_model_create(&c, &d, &err) == NULL && err.code == LLM_ERR_MEMORY);
    }
    CHECK(h.live == 0 && h.wrong == 0);
}

TEST(model_bad_desc) {
    const llm_config c = small_config(50, 16, 12, 2, 3);
    llm_model_desc d;
    llm_error err;
    heap h;
    heap_init(&h);
    d = model_desc(0, 1, &h.allocator);
    d.dtype = LLM_I32;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_create(&c, &d, &err), "dtype");
    d = model_desc(0, -1, &h.allocator);
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_create(&c, &d, &err), "n_threads", "-1");
    d = model_desc(0, 1025, &h.allocator);
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_create(&c, &d, &err), "n_threads", "1025", "1024");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_context_create(-1, &h.allocator, &err), "n_threads", "-1");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_context_create(1025, &h.allocator, &err), "n_threads", "1025",
             "1024");
    CHECK(h.live == 0 && h.calls == 0);
    llm_context_free(NULL);
    llm_model_free(NULL);
    CHECK(llm_model_config(NULL) == NULL && llm_model_tensor_count(NULL) == 0);
    CHECK(llm_model_tensor(NULL, 0).data == NULL);
}

TEST(model_bad_batch) {
    const llm_config c = small_config(50, 16, 12, 1, 3);
    heap h;
    llm_model *model = model_in(&h, &c, 0, 1);
    const long before = h.live;
    llm_error err;
    int32_t tokens[32], targets[32];
    float *logits = new_floats(32 * 50), *logprobs = new_floats(32);
    int i;
    static const int32_t outside[4] = {-1, 50, INT32_MAX, INT32_MIN};
    if (!model) return;
    random_tokens(tokens, 32, 50, 1);
    random_tokens(targets, 32, 50, 2);
    for (i = 0; i < 4; i++) {
        char value[32];
        snprintf(value, sizeof value, "%ld", (long)outside[i]);
        tokens[27] = outside[i];
        REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, 2, 16, logits, &err), value, "27",
                "50");
        REFUSED(LLM_ERR_ARGUMENT, llm_model_score(model, tokens, targets, 2, 16, logprobs, &err),
                value, "27", "50");
        tokens[27] = 0;
        targets[3] = outside[i];
        REFUSED(LLM_ERR_ARGUMENT, llm_model_score(model, tokens, targets, 2, 16, logprobs, &err),
                value, "3", "50");
        targets[3] = 0;
    }
    tokens[5] = LLM_IGNORE_INDEX;      /* fine as a target only */
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, 2, 16, logits, &err), "-100", "5",
            "50");
    tokens[5] = 0;
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, 0, 16, logits, &err), "B", "0", "1");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, -2, 16, logits, &err), "B", "-2",
            "1");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, 2, 0, logits, &err), "T", "0", "1");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, 1, 17, logits, &err), "T", "17",
            "16");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, INT_MAX, 16, logits, &err),
            "2147483647", "16");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_score(model, tokens, targets, 1, 17, logprobs, &err), "T",
            "17", "16");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(NULL, tokens, 1, 4, logits, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, NULL, 1, 4, logits, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_logits(model, tokens, 1, 4, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_score(NULL, tokens, targets, 1, 4, logprobs, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_score(model, NULL, targets, 1, 4, logprobs, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_score(model, tokens, NULL, 1, 4, logprobs, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_score(model, tokens, targets, 1, 4, NULL, &err), "NULL");
    CHECK(llm_model_logits(model, tokens, 0, 0, logits, NULL) == LLM_ERR_ARGUMENT);
    targets[0] = targets[7] = LLM_IGNORE_INDEX;
    CHECK(llm_model_score(model, tokens, targets, 1, 16, logprobs, &err) == LLM_OK);
    CHECK(logprobs[0] == 0.0f && logprobs[7] == 0.0f && logprobs[1] < 0.0f);
    CHECK(h.live == before);
    llm_model_free(model);
    CHECK(h.live == 0 && h.bytes == 0 && h.wrong == 0);
    free(logits);
    free(logprobs);
}

/* ---- memory that runs out: the n-th allocation fails, for every n ---------------------------- */
TEST(model_every_allocation_fails) {
    const llm_config c = small_config(50, 40, 12, 2, 3);
    llm_error err;
    heap h;
    llm_model_desc d;
    llm_model *model = NULL;
    int32_t tokens[80];
    float *logits = new_floats(80 * 50), *expected = new_floats(80 * 50);
    char path[512];
    heap_init(&h);
    d = model_desc(3, 2, &h.allocator);
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, model, llm_model_create(&c, &d, &err));
    if (!model) return;
    random_tokens(tokens, 80, 50, 9);
    CHECK(llm_model_logits(model, tokens, 2, 40, expected, &err) == LLM_OK);
    EACH_ALLOCATION_FAILS(&h, llm_model_logits(model, tokens, 2, 40, logits, &err));
    CHECK(same_bits(logits, expected, 80 * 50));
    EACH_ALLOCATION_FAILS(&h, llm_model_score(model, tokens, tokens, 2, 40, logits, &err));
    llm_model_free(model);
    CHECK(h.live == 0);
    free(logits);
    free(expected);

    snprintf(path, sizeof path, "%s/gpt2_untied", TEST_DATA);
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, model, llm_model_load(path, &d, &err));
    llm_model_free(model);
    CHECK(h.live == 0 && h.bytes == 0 && h.wrong == 0);
}

TEST(trainer_every_allocation_fails) {
    const llm_config c = small_config(50, 40, 12, 2, 3);
    const llm_train_desc t = train_desc(2, 40, 2);
    heap h;
    llm_model *model = model_in(&h, &c, 3, 2);
    llm_trainer *trainer = NULL;
    llm_error err;
    int32_t tokens[80];
    if (!model) return;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, trainer, llm_trainer_create(model, &t, &err));
    random_tokens(tokens, 80, 50, 9);
    if (trainer) {
        h.calls = 0;
        CHECK(llm_trainer_step(trainer, tokens, tokens, NULL, &err) == LLM_OK);
        CHECK(llm_trainer_evaluate(trainer, tokens, tokens, 1, 17, NULL, &err) == LLM_OK);
        CHECK_MSG(h.calls == 0, "a step allocates %ld times", h.calls);
    }
    llm_trainer_free(trainer);
    llm_model_free(model);
    CHECK(h.live == 0 && h.wrong == 0);
}

TEST(session_every_allocation_fails) {
    const llm_config c = small_config(50, 40, 12, 2, 3);
    heap h;
    llm_model *model = model_in(&h, &c, 3, 2);
    llm_session *session = NULL;
    llm_session_desc s;
    llm_generate_desc g;
    int32_t tokens[80], fresh[8];
    float logits[150];
    llm_error err;
    if (!model) return;
    memset(&s, 0, sizeof s);
    s.n_sequences = 3;
    EACH_ALLOCATION_FAILS_TO_MAKE(&h, session, llm_session_create(model, &s, &err));
    random_tokens(tokens, 80, 50, 9);
    if (session) {
        memset(&g, 0, sizeof g);
        g.max_new_tokens = 8;
        g.sampling.temperature = 1.0f;
        g.sampling.top_p = 0.9f;
        g.sampling.repetition_penalty = 1.1f;
        h.calls = 0;
        CHECK(llm_session_eval(session, 1, tokens, 20, logits, &err) == LLM_OK);
        CHECK(llm_session_eval_batch(session, tokens, logits, &err) == LLM_OK);
        CHECK(llm_generate(session, tokens, 5, &g, fresh, 8, NULL, &err) == LLM_OK);
        CHECK_MSG(h.calls == 0, "a session allocates %ld times after its creation", h.calls);
    }
    llm_session_free(session);
    llm_model_free(model);
    CHECK(h.live == 0 && h.wrong == 0);
}

/* a model is read by several threads at once */
typedef struct share_job {
    const llm_model *model;
    const int32_t *tokens;
    float *got;
    int failed[4];
} share_job;
static void share_task(void *argument, size_t index, int thread) {
    share_job *job = (share_job *)argument;
    (void)thread;
    job->failed[index] = llm_model_logits(job->model, job->tokens, 2, 24,
                                          job->got + index * 48 * 70, NULL) != LLM_OK;
}
TEST(model_threads_share) {
    llm_context *context = llm_context_create(4, NULL, NULL);
    const llm_config c = small_config(70, 24, 24, 2, 3);
    llm_model *model = shaken_model(&c, 11, 1, NULL);
    int32_t tokens[48];
    float *expected = new_floats(48 * 70), *got = new_floats(4 * 48 * 70);
    share_job job;
    int i;
    if (!model || !context) return;
    random_tokens(tokens, 48, 70, 4);
    CHECK(llm_model_logits(model, tokens, 2, 24, expected, NULL) == LLM_OK);
    job.model = model;
    job.tokens = tokens;
    job.got = got;
    llmi_parallel(context, 4, share_task, &job);
    for (i = 0; i < 4; i++)
        CHECK(!job.failed[i] && same_bits(got + i * 48 * 70, expected, 48 * 70));
    llm_context_free(context);
    llm_model_free(model);
    free(expected);
    free(got);
}

/* rows do not see each other's sequence, nor later positions; any number of threads, the same
 * bits */
TEST(model_causal_and_independent) {
    const llm_config c = small_config(90, 70, 24, 2, 3);
    int threads;
    float *whole = new_floats(2 * 70 * 90), *other = new_floats(2 * 70 * 90);
    int32_t tokens[140];
    llm_model *model = shaken_model(&c, 21, 1, NULL);
    if (!model) return;
    random_tokens(tokens, 140, 90, 4);
    CHECK(llm_model_logits(model, tokens, 2, 70, whole, NULL) == LLM_OK);
    CHECK(llm_model_logits(model, tokens + 70, 1, 70, other, NULL) == LLM_OK);
    CHECK(relative_error(other, whole + 70 * 90, 70 * 90) < 1e-5);
    CHECK(llm_model_logits(model, tokens, 1, 33, other, NULL) == LLM_OK);
    CHECK(relative_error(other, whole, 33 * 90) < 1e-5);
    tokens[69] = (tokens[69] + 1) % 90;
    CHECK(llm_model_logits(model, tokens, 2, 70, other, NULL) == LLM_OK);
    CHECK(same_bits(other, whole, 69 * 90) && !same_bits(other + 69 * 90, whole + 69 * 90, 90));
    CHECK(same_bits(other + 70 * 90, whole + 70 * 90, 70 * 90));
    for (threads = 2; threads < 8; threads += 2) {
        llm_model *again = shaken_model(&c, 21, threads, NULL);
        if (!again) continue;
        CHECK(llm_model_logits(again, tokens, 2, 70, whole, NULL) == LLM_OK);
        CHECK_MSG(same_bits(other, whole, 2 * 70 * 90), "%d threads give other bits", threads);
        llm_model_free(again);
    }
    llm_model_free(model);
    free(whole);
    free(other);
}

static void run_model(void) {
    RUN(model_golden_logits);
    RUN(model_golden_gradients);
    RUN(model_golden_gradients_recomputed);
    RUN(model_golden_config);
    RUN(config_presets);
    RUN(config_of_most_modules);
    RUN(config_of_deepseek_v3);
    RUN(config_of_published_models);
    RUN(config_counts_what_is_allocated);
    RUN(model_initialisation);
    RUN(config_impossible);
    RUN(model_larger_than_memory);
    RUN(model_bad_desc);
    RUN(model_bad_batch);
    RUN(model_every_allocation_fails);
    RUN(trainer_every_allocation_fails);
    RUN(session_every_allocation_fails);
    RUN(model_threads_share);
    RUN(model_causal_and_independent);
}
