/* The trainer: against ten steps of PyTorch, and against itself: accumulation, shards, threads,
 * failures. */

/* ---- PyTorch --------------------------------------------------------------------------------- */
TEST(trainer_ten_steps_of_pytorch) {
    const llmi_kernels *kernels;
    int k;
    for (k = 0; (kernels = kernels_at(k)) != NULL; k++) {
        golden g = golden_open("trainer", "golden.safetensors");
        const golden_tensor tokens = golden_get(&g, "tokens"), targets = golden_get(&g, "targets");
        const golden_tensor losses = golden_get(&g, "losses"), norms = golden_get(&g, "norms");
        const golden_tensor rates = golden_get(&g, "rates"), desc = golden_get(&g, "desc");
        llm_model *model = golden_model("trainer", 2, NULL);
        llm_train_desc d = train_desc(tokens.dims[1], tokens.dims[2], 2);
        llm_trainer *trainer;
        llm_train_stats stats;
        llm_error err;
        size_t i;
        int m;
        if (!model || !desc.count) return;
        d.schedule = LLM_SCHEDULE_COSINE;
        d.learning_rate = desc.f[0];
        d.min_lr_ratio = desc.f[1];
        d.warmup_steps = (int)desc.f[2];
        d.max_steps = (int)desc.f[3];
        d.beta1 = desc.f[4];
        d.beta2 = desc.f[5];
        d.adam_eps = desc.f[6];
        d.weight_decay = desc.f[7];
        d.grad_clip = desc.f[8];
        d.grad_accum_steps = (int)desc.f[9];
        trainer = new_trainer(model, &d);
        if (!trainer) return;
        trainer_use(trainer, kernels);
        for (m = 0; m < tokens.dims[0]; m++) {
            const size_t at = (size_t)m * (size_t)(d.batch_size * d.seq_len);
            const int update = m / d.grad_accum_steps;
            CHECK(llm_trainer_step(trainer, tokens.i + at, targets.i + at, &stats, &err) == LLM_OK);
            CHECK_MSG(fabs((double)stats.loss - (double)losses.f[m]) <= 2e-5 * (double)losses.f[m],
                      "%s: loss %d is %.8g instead of %.8g", kernels->name, m, (double)stats.loss,
                      (double)losses.f[m]);
            CHECK(stats.step == (m + 1) / d.grad_accum_steps);
            CHECK(stats.tokens == (int64_t)(m + 1) * d.batch_size * d.seq_len);
            if ((m + 1) % d.grad_accum_steps) continue;
            CHECK_MSG(fabs((double)stats.grad_norm - (double)norms.f[update]) <=
                          5e-5 * (double)norms.f[update],
                      "%s: norm %d is %.8g instead of %.8g", kernels->name, update,
                      (double)stats.grad_norm, (double)norms.f[update]);
            CHECK_MSG(fabs((double)stats.learning_rate - (double)rates.f[update]) <=
                          1e-6 * (double)rates.f[update],
                      "%s: learning rate %d is %.8g instead of %.8g", kernels->name, update,
                      (double)stats.learning_rate, (double)rates.f[update]);
        }
        for (i = 0; i < llm_model_tensor_count(model); i++) {
            const llm_tensor t = llm_model_tensor(model, i);
            char key[128];
            golden_tensor expected;
            double error;
            snprintf(key, sizeof key, "final.%s", t.name);
            expected = golden_get(&g, key);
            CHECK(expected.count == tensor_size(&t));
            error = relative_error((float *)t.data, expected.f, expected.count);
            CHECK_MSG(error <= 1e-4, "%s: %s differs by %g after ten steps", kernels->name, t.name,
                      error);
        }
        llm_trainer_free(trainer);
        llm_model_free(model);
        golden_close(&g);
    }
}

TEST(trainer_schedules_of_pytorch) {
    golden g = golden_open("", "schedules.safetensors");
    int c, i;
    for (c = 0; c < 9; c++) {
        char key[32];
        golden_tensor desc, rates;
        llm_train_desc d = train_desc(1, 1, 1);
        snprintf(key, sizeof key, "desc%d", c);
        desc = golden_get(&g, key);
        snprintf(key, sizeof key, "rates%d", c);
        rates = golden_get(&g, key);
        if (!desc.count || !rates.count) continue;
        d.schedule = (llm_schedule)(int)desc.f[0];
        d.learning_rate = desc.f[1];
        d.min_lr_ratio = desc.f[2] == 0.0f ? LLM_OFF : desc.f[2];
        d.warmup_steps = (int)desc.f[3];
        d.max_steps = (int)desc.f[4];
        d.decay_steps = (int)desc.f[5];
        for (i = 0; i < (int)rates.count; i++)
            CHECK_MSG(fabs((double)llm_learning_rate(&d, i) - (double)rates.f[i]) <=
                          1e-6 * (double)desc.f[1],
                      "schedule %d of kind %d, update %d: %.8g instead of %.8g", c, (int)d.schedule,
                      i, (double)llm_learning_rate(&d, i), (double)rates.f[i]);
    }
    golden_close(&g);
}

/* what a trainer uses is what llm_learning_rate says of the same desc, zeros that are meant too */
TEST(trainer_follows_the_schedule) {
    const llm_config c = small_config(20, 8, 8, 1, 2);
    int kind, off;
    for (kind = LLM_SCHEDULE_COSINE; kind <= LLM_SCHEDULE_CONSTANT; kind++)
        for (off = 0; off < 4; off++) {
            llm_model *model = shaken_model(&c, 3, 1, NULL);
            llm_train_desc d = train_desc(1, 8, 1);
            llm_trainer *trainer;
            int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
            int i;
            d.schedule = (llm_schedule)kind;
            d.max_steps = 4;
            d.warmup_steps = 1;
            if (off & 1) d.min_lr_ratio = LLM_OFF;
            if (off & 2) d.learning_rate = LLM_OFF;
            trainer = llm_trainer_create(model, &d, NULL);
            for (i = 0; i < 6; i++) {
                llm_train_stats stats;
                CHECK(llm_trainer_step(trainer, tokens, tokens, &stats, NULL) == LLM_OK);
                CHECK_MSG(stats.learning_rate == llm_learning_rate(&d, i),
                          "schedule %d, off %d, update %d: %g, not %g", kind, off, i,
                          (double)stats.learning_rate, (double)llm_learning_rate(&d, i));
            }
            llm_trainer_free(trainer);
            llm_model_free(model);
        }
}

TEST(trainer_schedule_defaults) {
    llm_train_desc d = train_desc(1, 1, 1);
    int i;
    CHECK(fabs((double)llm_learning_rate(&d, 0) - 3e-4) < 1e-10);
    CHECK(fabs((double)llm_learning_rate(&d, 1 << 30) - 3e-4) < 1e-10);
    CHECK(llm_learning_rate(&d, -1) == llm_learning_rate(&d, 0));
    for (i = 0; i < 3; i++) {          /* the ratio is 0.1, the warm-up none */
        d.schedule = i == 0 ? LLM_SCHEDULE_COSINE : i == 1 ? LLM_SCHEDULE_LINEAR : LLM_SCHEDULE_WSD;
        d.max_steps = 50;
        CHECK(fabs((double)llm_learning_rate(&d, 0) - 3e-4) < 1e-10);
        CHECK(fabs((double)llm_learning_rate(&d, 50) - 3e-5) < 1e-10);
        CHECK(fabs((double)llm_learning_rate(&d, (int64_t)1 << 40) - 3e-5) < 1e-10);
        d.min_lr_ratio = LLM_OFF;
        CHECK(llm_learning_rate(&d, 50) == 0.0f);
        d.min_lr_ratio = 0.0f;
    }
    d.warmup_steps = 50; /* warm-up to the end: never more than the whole rate, never NaN */
    for (i = 0; i < 3; i++) {
        int64_t step;
        d.schedule = (llm_schedule)i;
        for (step = 0; step < 60; step++) {
            const float rate = llm_learning_rate(&d, step);
            CHECK(rate > 0.0f && rate <= 3.0001e-4f);
        }
    }
}

/* ---- the ops of an update -------------------------------------------------------------------- */
TEST(trainer_adamw_op) {
    static const size_t sizes[] = {1, 7, 15, 16, 17, 31, 33, 1000, 16384, 20001};
    int table, s;
    for (table = 0; kernels_at(table); table++)
        for (s = 0; s < 10; s++) {
            const size_t n = sizes[s];
            llm_context *context = context_at(table, 2);
            float *w = new_floats(n), *m = new_floats(n), *v = new_floats(n), *grad = new_floats(n);
            double *ew = (double *)calloc(n, 8), *em = (double *)calloc(n, 8),
                   *ev = (double *)calloc(n, 8);
            const double lr = 0.01, b1 = 0.9, b2 = 0.95, eps = 1e-6, decay = 0.2, scale = 0.3;
            double worst = 0.0;
            size_t i;
            int step;
            for (i = 0; i < n; i++) ew[i] = (double)(w[i] = llm_random_normal(1, i));
            for (step = 1; step <= 5; step++) {
                for (i = 0; i < n; i++) {
                    double g;
                    grad[i] = 2.0f * llm_random_normal(10 + (uint64_t)step, i);
                    g = scale * (double)grad[i];
                    em[i] = b1 * em[i] + (1.0 - b1) * g;
                    ev[i] = b2 * ev[i] + (1.0 - b2) * g * g;
                    ew[i] -= lr * (em[i] / (1.0 - pow(b1, step)) /
                                       (sqrt(ev[i] / (1.0 - pow(b2, step))) + eps) +
                                   decay * ew[i]);
                }
                const llm_adamw adamw = adamw_of(step - 1, (float)lr, (float)b1, (float)b2,
                                                 (float)eps, (float)decay, (float)scale);
                llm_adamw_update(context, w, m, v, grad, n, &adamw);
            }
            for (i = 0; i < n; i++)
                worst = fmax(worst, fabs((double)w[i] - ew[i]) / (0.01 + fabs(ew[i])));
            CHECK_MSG(worst < 1e-5, "%s, n %lu: error %g", context->kernels->name,
                      (unsigned long)n, worst);
            free(w); free(m); free(v); free(grad);
            free(ew); free(em); free(ev);
            llm_context_free(context);
        }
}

TEST(trainer_clip_op) {
    static const size_t sizes[] = {1, 15, 17, 16383, 16385, 50000};
    int table, s;
    for (table = 0; kernels_at(table); table++)
        for (s = 0; s < 6; s++) {
            const size_t n = sizes[s];
            llm_context *context = context_at(table, 2);
            float *grad = new_floats(n), *before = new_floats(n);
            double norm = 0.0, worst = 0.0, factor;
            size_t i;
            for (i = 0; i < n; i++) {
                grad[i] = before[i] = llm_random_normal(3, i) + 0.01f;
                norm += (double)grad[i] * (double)grad[i];
            }
            norm = sqrt(norm);
            CHECK(fabs((double)llm_clip_grad_norm(context, grad, n, (float)(1.5 * norm)) / norm -
                       1.0) < 1e-6);
            CHECK_MSG(same_bits(grad, before, n), "%s, n %lu: changed below the bound",
                      context->kernels->name, (unsigned long)n);
            CHECK(fabs((double)llm_clip_grad_norm(context, grad, n, (float)(0.25 * norm)) / norm -
                       1.0) < 1e-6);
            factor = (double)(float)(0.25 * norm) / (norm + 1e-6);
            for (i = 0; i < n; i++)
                worst = fmax(worst, fabs((double)grad[i] - factor * (double)before[i]));
            CHECK_MSG(worst < 1e-6, "%s, n %lu: off by %g", context->kernels->name,
                      (unsigned long)n, worst);
            free(grad);
            free(before);
            llm_context_free(context);
        }
}

/* an update on gradients of our own: clipping, bias correction, decay of matrices only, LLM_OFF */
TEST(trainer_update_in_double) {
    int variant;
    for (variant = 0; variant < 4; variant++) {
        const llm_config c = small_config(37, 9, 20, 2, 2);
        llm_train_desc d = train_desc(2, 9, 2);
        int32_t tokens[18], targets[18];
        llm_trainer *trainer;
        const llm_model *model;
        llm_train_stats stats;
        size_t n, i, j;
        double norm, worst = 0.0, worst_1d = 0.0;
        double *w, *m, *v;
        int step;
        d.learning_rate = 0.01f;
        d.weight_decay = variant & 1 ? LLM_OFF : 0.0f;
        d.grad_clip = variant & 2 ? LLM_OFF : 0.0f;
        trainer = shaken_trainer(&c, 1, &d);
        if (!trainer) return;
        model = trainer->model;
        llm_trainer_weights(trainer, &n);
        w = (double *)calloc(n, 8);
        m = (double *)calloc(n, 8);
        v = (double *)calloc(n, 8);
        for (i = 0; i < n; i++) w[i] = (double)llm_trainer_weights(trainer, NULL)[i];
        for (step = 1; step <= 3; step++) {
            float *gradients;
            double scale;
            random_batch(tokens, targets, 18, 37, 0.3, (uint64_t)step);
            CHECK(llm_trainer_forward(trainer, tokens, targets, &stats, NULL) == LLM_OK);
            CHECK(llm_trainer_backward(trainer, NULL) == LLM_OK);
            gradients = llm_trainer_gradients(trainer, NULL);
            scale = llm_trainer_gradient_scale(trainer);
            for (i = 0, norm = 0.0; i < llm_model_tensor_count(model); i++) {
                llm_tensor t = llm_trainer_gradient(trainer, i);
                for (j = 0; j < tensor_size(&t); j++) {
                    float *x = &((float *)t.data)[j];
                    *x = 3.0f * llm_random_normal((uint64_t)step * 100 + i, j);
                    norm += scale * (double)*x * scale * (double)*x;
                }
            }
            norm = sqrt(norm);
            CHECK(fabs(sqrt(llm_trainer_gradient_square_sum(trainer, 0, n)) * scale / norm - 1.0) <
                  1e-6);
            for (i = 0; i < llm_model_tensor_count(model); i++) {
                const llm_tensor t = llm_trainer_gradient(trainer, i);
                const size_t at = (size_t)((float *)t.data - gradients);
                const double decay = t.n_dims >= 2 && !(variant & 1) ? 0.1 : 0.0;
                const double factor = variant & 2 ? 1.0 : fmin(1.0, 1.0 / (norm + 1e-6));
                for (j = at; j < at + tensor_size(&t); j++) {
                    const double g = factor * scale * (double)gradients[j];
                    m[j] = 0.9 * m[j] + 0.1 * g;
                    v[j] = 0.95 * v[j] + 0.05 * g * g;
                    w[j] -= 0.01 * (m[j] / (1.0 - pow(0.9, step)) /
                                        (sqrt(v[j] / (1.0 - pow(0.95, step))) + 1e-8) +
                                    decay * w[j]);
                }
            }
            CHECK(llm_trainer_update(trainer, &stats, NULL) == LLM_OK);
            CHECK_MSG(fabs((double)stats.grad_norm / norm - 1.0) < 1e-6, "norm %g instead of %g",
                      (double)stats.grad_norm, norm);
            CHECK(stats.step == step);
        }
        for (i = 0; i < llm_model_tensor_count(model); i++) {
            const llm_tensor t = llm_model_tensor(model, i);
            const size_t at = (size_t)((float *)t.data - llm_trainer_weights(trainer, NULL));
            for (j = 0; j < tensor_size(&t); j++) {
                const double error = fabs((double)((float *)t.data)[j] - w[at + j]);
                if (t.n_dims > 1) worst = fmax(worst, error);
                else worst_1d = fmax(worst_1d, error);
            }
        }
        CHECK_MSG(worst < 2e-6, "variant %d: matrices are off by %g", variant, worst);
        CHECK_MSG(worst_1d < 2e-6, "variant %d: vectors are off by %g", variant, worst_1d);
        free(w);
        free(m);
        free(v);
        drop_trainer(trainer);
    }
}

/* ---- batches --------------------------------------------------------------------------------- */
/* of a GPT-2 with 41 tokens and 16 positions, in one thread */
static llm_trainer *small_trainer(int B, int T) {
    const llm_config c = small_config(41, 16, 20, 1, 2);
    const llm_train_desc d = train_desc(B, T, 1);
    return shaken_trainer(&c, 7, &d);
}
/* the tail holds the tokens per expert of all micro-batches since the update */
TEST(trainer_loads_accumulate) {
    const llm_config c = deepseek_config(1, 0, 40, 12, 0);
    llm_train_desc d = train_desc(2, 12, 1);
    int32_t tokens[2][24], targets[2][24];
    float *tail[3];
    llm_trainer *t[3];
    size_t n, count = 0, i;
    int k, other = 0;
    d.grad_accum_steps = 2;
    for (k = 0; k < 2; k++) random_batch(tokens[k], targets[k], 24, 40, 0.1, 8 + (uint64_t)k);
    for (k = 0; k < 3; k++) {          /* the first batch, the second, both */
        int b;
        t[k] = shaken_trainer(&c, 7, &d);
        if (!t[k]) return;
        for (b = 0; b < 2; b++) {
            if (k < 2 && b != k) continue;
            CHECK(llm_trainer_forward(t[k], tokens[b], targets[b], NULL, NULL) == LLM_OK);
            CHECK(llm_trainer_backward(t[k], NULL) == LLM_OK);
        }
        llm_trainer_weights(t[k], &n);
        tail[k] = llm_trainer_gradients(t[k], &count) + n;
    }
    CHECK(count - n > 1);
    for (i = 0; i < count - n; i++) {
        CHECK(tail[2][i] == tail[0][i] + tail[1][i]);
        other += tail[0][i] != tail[1][i];
    }
    CHECK(other > 0);
    for (k = 0; k < 3; k++) drop_trainer(t[k]);
}
TEST(trainer_accumulation_equals_the_large_batch) {
    const llm_config c = small_config(53, 21, 24, 2, 3);
    llm_train_desc d = train_desc(6, 21, 2);
    llm_trainer *a, *b;
    llm_train_stats sa, sb;
    int32_t tokens[126], targets[126];
    size_t n;
    int update, i;
    d.adam_eps = 1e-4f; /* so that rounding noise does not become a step of full length */
    a = shaken_trainer(&c, 7, &d);
    d.batch_size = 2;
    d.grad_accum_steps = 3;
    b = shaken_trainer(&c, 7, &d);
    if (!a || !b) return;
    llm_trainer_weights(a, &n);
    for (update = 0; update < 2; update++) {
        double loss = 0.0, weight = 0.0;
        random_batch(tokens, targets, 126, 53, 0.2, 5 + (uint64_t)update);
        for (i = 42; i < 80; i++)
            targets[i] = LLM_IGNORE_INDEX; /* micro-batches weigh differently */
        CHECK(llm_trainer_forward(a, tokens, targets, &sa, NULL) == LLM_OK);
        CHECK(llm_trainer_backward(a, NULL) == LLM_OK);
        for (i = 0; i < 3; i++) {
            const double valid = (double)llmi_count_valid(targets + 42 * i, 42);
            CHECK(llm_trainer_forward(b, tokens + 42 * i, targets + 42 * i, &sb, NULL) == LLM_OK);
            CHECK(llm_trainer_backward(b, NULL) == LLM_OK);
            loss += valid * (double)sb.loss;
            weight += valid;
        }
        CHECK(fabs(loss / weight - (double)sa.loss) < 1e-5);
        CHECK(llm_trainer_gradient_scale(a) == llm_trainer_gradient_scale(b));
        CHECK_MSG(gradient_error(b, a) < 1e-5, "gradients differ by %g", gradient_error(b, a));
        CHECK(llm_trainer_update(a, &sa, NULL) == LLM_OK);
        CHECK(llm_trainer_update(b, &sb, NULL) == LLM_OK);
        CHECK(fabs((double)sa.grad_norm / (double)sb.grad_norm - 1.0) < 1e-5);
        CHECK(relative_error(llm_trainer_weights(b, NULL), llm_trainer_weights(a, NULL), n) < 1e-5);
    }
    drop_trainer(a);
    drop_trainer(b);
}

/* sums of two processes' buffers make both equal one process with the batches together; each
 * then updates its half of the weights */
TEST(trainer_processes_and_shards) {
    const llm_config c = small_config(53, 21, 24, 2, 3);
    llm_trainer *t[3];
    llm_train_desc d = train_desc(4, 21, 2);
    int32_t tokens[84], targets[84];
    size_t n, count, half, i;
    int rank, update;
    d.adam_eps = 1e-4f;
    t[0] = shaken_trainer(&c, 7, &d);
    if (!t[0]) return;
    llm_trainer_gradients(t[0], &count);
    llm_trainer_weights(t[0], &n);
    CHECK(count > n && n >= llm_config_param_count(&c));
    half = n / 2 - 5;                  /* in the middle of a tensor */
    d.batch_size = 2;
    for (rank = 1; rank < 3; rank++) {
        d.shard_first = rank == 1 ? 0 : half;
        d.shard_count = rank == 1 ? half : n - half;
        t[rank] = shaken_trainer(&c, 7, &d);
        if (!t[rank]) return;
    }
    for (update = 0; update < 2; update++) {
        float *sum = new_floats(count);
        double norm[3], squares[3];
        llm_train_stats stats[3];
        random_batch(tokens, targets, 84, 53, 0.2, 5 + (uint64_t)update);
        for (i = 0; i < 30; i++) targets[i] = LLM_IGNORE_INDEX;
        for (rank = 0; rank < 3; rank++) {
            const int at = rank == 2 ? 42 : 0;
            CHECK(llm_trainer_forward(t[rank], tokens + at, targets + at, NULL, NULL) == LLM_OK);
            CHECK(llm_trainer_backward(t[rank], NULL) == LLM_OK);
            for (i = 0; i < count && rank > 0; i++)
                sum[i] += llm_trainer_gradients(t[rank], NULL)[i];
        }
        CHECK(relative_error(sum, llm_trainer_gradients(t[0], NULL), count) < 1e-5);
        for (rank = 1; rank < 3; rank++)
            memcpy(llm_trainer_gradients(t[rank], NULL), sum, count * sizeof(float));
        for (rank = 0; rank < 3; rank++) {
            CHECK(llm_trainer_gradient_scale(t[rank]) == llm_trainer_gradient_scale(t[0]));
            squares[rank] = llm_trainer_gradient_square_sum(t[rank], 0, half) +
                            llm_trainer_gradient_square_sum(t[rank], half, n - half);
            norm[rank] = sqrt(squares[rank]) * llm_trainer_gradient_scale(t[rank]);
        }
        CHECK(fabs(norm[1] / norm[0] - 1.0) < 1e-5 && norm[1] == norm[2]);
        CHECK(llm_trainer_update(t[0], &stats[0], NULL) == LLM_OK);
        CHECK(llm_trainer_update_range(t[1], 0, half, norm[1], &stats[1], NULL) == LLM_OK);
        CHECK(llm_trainer_update_range(t[2], half, n - half, norm[2], &stats[2], NULL) == LLM_OK);
        CHECK(stats[1].step == update + 1 && stats[2].step == update + 1);
        CHECK(stats[1].grad_norm == stats[2].grad_norm &&
              stats[1].learning_rate == stats[0].learning_rate);
        memcpy(llm_trainer_weights(t[1], NULL) + half, llm_trainer_weights(t[2], NULL) + half,
               (n - half) * sizeof(float));
        memcpy(llm_trainer_weights(t[2], NULL), llm_trainer_weights(t[1], NULL), n * sizeof(float));
        CHECK(relative_error(llm_trainer_weights(t[1], NULL), llm_trainer_weights(t[0], NULL), n) <
              1e-5);
        free(sum);
    }
    {
        llm_error err;
        memset(&err, 0, sizeof err);
        CHECK(llm_trainer_forward(t[1], tokens, tokens, NULL, NULL) == LLM_OK);
        CHECK(llm_trainer_backward(t[1], NULL) == LLM_OK);
        CHECK(llm_trainer_update_range(t[1], half - 1, 2, 1.0, NULL, &err) ==
              LLM_ERR_ARGUMENT); /* not its own */
        CHECK(llm_trainer_update_range(t[1], 0, (size_t)-1, 1.0, NULL, &err) == LLM_ERR_ARGUMENT);
        CHECK(llm_trainer_update_range(t[1], (size_t)-1, 2, 1.0, NULL, &err) == LLM_ERR_ARGUMENT);
    }
    for (rank = 0; rank < 3; rank++) drop_trainer(t[rank]);
}

TEST(trainer_ranges_equal_the_whole) {
    const llm_config c = small_config(41, 13, 20, 1, 2);
    const llm_train_desc d = train_desc(2, 13, 2);
    llm_trainer *a = shaken_trainer(&c, 7, &d), *b = shaken_trainer(&c, 7, &d);
    int32_t tokens[26], targets[26];
    size_t n, at, piece;
    int update;
    if (!a || !b) return;
    llm_trainer_weights(a, &n);
    for (update = 0; update < 3; update++) {
        double norm;
        llm_train_stats stats;
        random_batch(tokens, targets, 26, 41, 0.2, 5 + (uint64_t)update);
        CHECK(llm_trainer_step(a, tokens, targets, NULL, NULL) == LLM_OK);
        CHECK(llm_trainer_forward(b, tokens, targets, NULL, NULL) == LLM_OK);
        CHECK(llm_trainer_backward(b, NULL) == LLM_OK);
        norm = sqrt(llm_trainer_gradient_square_sum(b, 0, n)) * llm_trainer_gradient_scale(b);
        for (at = 0, piece = 1; at < n; at += piece, piece = piece * 3 + 1) {
            piece = llmi_min(piece, n - at);
            CHECK(llm_trainer_update_range(b, at, piece, norm, &stats, NULL) == LLM_OK);
            CHECK_MSG(stats.step == update + (at + piece == n), "step %d after %lu of %lu",
                      (int)stats.step, (unsigned long)(at + piece), (unsigned long)n);
        }
        CHECK(weights_are(b, llm_trainer_weights(a, NULL)));
    }
    drop_trainer(a);
    drop_trainer(b);
}

/* slices come one after the other, with one norm, and nothing comes between them */
TEST(trainer_slices_in_order) {
    llm_trainer *t = small_trainer(2, 16);
    llm_train_stats stats;
    llm_error err;
    int32_t tokens[32], targets[32];
    size_t n;
    if (!t) return;
    random_batch(tokens, targets, 32, 41, 0.1, 3);
    llm_trainer_weights(t, &n);
    CHECK(llm_trainer_forward(t, tokens, targets, NULL, NULL) == LLM_OK &&
          llm_trainer_backward(t, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(t, 5, 5, 1.0, NULL, &err), "5", "0 is next");
    CHECK(llm_trainer_update_range(t, 0, 100, 1.0, NULL, &err) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(t, 0, 100, 1.0, NULL, &err), "100 is next");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(t, 101, 9, 1.0, NULL, &err), "101");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(t, 100, 9, 2.0, NULL, &err), "grad_norm 2");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(t, 100, 9, (double)NAN, NULL, &err), "nan");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(t, NULL, &err), "100 is next");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(t, tokens, targets, NULL, &err), "slices");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 2, 16, NULL, &err),
            "slices");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_save(t, "build/none", &err), "slices");
    CHECK(llm_trainer_update_range(t, 100, 0, 1.0, &stats, &err) == LLM_OK && stats.step == 0);
    CHECK(llm_trainer_update_range(t, 100, n - 100, 1.0, &stats, &err) == LLM_OK &&
          stats.step == 1);
    CHECK(llm_trainer_step(t, tokens, targets, &stats, &err) == LLM_OK && stats.step == 2);
    drop_trainer(t);
}

/* a target that is ignored might as well not be there */
TEST(trainer_ignored_is_absent) {
    const llm_config c = small_config(41, 16, 20, 2, 2);
    llm_train_desc d = train_desc(1, 16, 1);
    llm_trainer *a = shaken_trainer(&c, 7, &d), *b;
    llm_train_stats sa, sb;
    int32_t tokens[16], targets[16];
    int i;
    d.seq_len = 11;
    b = shaken_trainer(&c, 7, &d);
    if (!a || !b) return;
    random_tokens(tokens, 16, 41, 1);
    random_tokens(targets, 16, 41, 2);
    for (i = 11; i < 16; i++) targets[i] = LLM_IGNORE_INDEX;
    CHECK(llm_trainer_forward(a, tokens, targets, &sa, NULL) == LLM_OK &&
          llm_trainer_backward(a, NULL) == LLM_OK);
    CHECK(llm_trainer_forward(b, tokens, targets, &sb, NULL) == LLM_OK &&
          llm_trainer_backward(b, NULL) == LLM_OK);
    CHECK(fabs((double)sa.loss - (double)sb.loss) < 1e-5);
    CHECK(gradient_error(a, b) < 1e-5);
    CHECK(fabs((double)sa.perplexity / exp((double)sa.loss) - 1.0) < 1e-4 &&
          sa.main_loss == sa.loss);
    drop_trainer(a);
    drop_trainer(b);
}

TEST(trainer_without_a_valid_target) {
    llm_trainer *a = small_trainer(2, 16), *b = small_trainer(2, 16);
    llm_train_stats stats;
    llm_error err;
    int32_t tokens[32], targets[32], none[32];
    float *before;
    int i;
    if (!a || !b) return;
    random_batch(tokens, targets, 32, 41, 0.1, 3);
    for (i = 0; i < 32; i++) none[i] = LLM_IGNORE_INDEX;
    before = copy_weights(a);
    memset(&stats, 0x55, sizeof stats);
    CHECK(llm_trainer_forward(a, tokens, none, &stats, &err) == LLM_OK);
    CHECK(stats.loss == 0.0f && stats.main_loss == 0.0f);
    CHECK(llm_trainer_backward(a, &err) == LLM_OK);
    CHECK(llm_trainer_gradient_scale(a) == 0.0);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(a, &stats, &err), "valid", "0");
    CHECK(weights_are(a, before));
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(a, &stats, &err), "valid");
    /* it weighs nothing in an accumulation */
    CHECK(llm_trainer_forward(a, tokens, targets, &stats, &err) == LLM_OK &&
          llm_trainer_backward(a, &err) == LLM_OK);
    CHECK(llm_trainer_update(a, &stats, &err) == LLM_OK && stats.step == 1);
    CHECK(llm_trainer_step(b, tokens, targets, NULL, NULL) == LLM_OK);
    CHECK(weights_are(a, llm_trainer_weights(b, NULL)));
    /* step: dropped and said, then all is as if nothing had been */
    free(before);
    before = copy_weights(a);
    CHECK(llm_trainer_step(a, tokens, none, &stats, &err) == LLM_OK);
    CHECK(stats.skipped == 1 && stats.n_targets == 0 && stats.step == 1);
    CHECK(weights_are(a, before));
    CHECK(llm_trainer_step(a, tokens, targets, NULL, &err) == LLM_OK);
    CHECK(llm_trainer_step(b, tokens, targets, NULL, NULL) == LLM_OK);
    CHECK(weights_are(a, llm_trainer_weights(b, NULL)));
    CHECK(llm_trainer_evaluate(a, tokens, none, 2, 16, &stats, &err) == LLM_OK &&
          stats.loss == 0.0f);
    free(before);
    drop_trainer(a);
    drop_trainer(b);
}

/* ---- the order of calls ---------------------------------------------------------------------- */
TEST(trainer_wrong_order) {
    llm_config c = small_config(41, 16, 20, 1, 2);
    llm_model *model;
    llm_train_desc d = train_desc(2, 16, 1);
    llm_trainer *a, *b;
    llm_train_stats stats;
    llm_error err;
    int32_t tokens[32], targets[32];
    size_t n;
    c.resid_pdrop = 0.1f;
    a = shaken_trainer(&c, 7, &d);
    b = shaken_trainer(&c, 7, &d);
    if (!a || !b) return;
    model = a->model;
    llm_trainer_weights(a, &n);
    random_batch(tokens, targets, 32, 41, 0.1, 3);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_backward(a, &err), "forward");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(a, &stats, &err), "backward");
    CHECK(llm_trainer_gradient_scale(a) == 0.0);
    CHECK(llm_trainer_forward(a, tokens, targets, NULL, &err) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(a, tokens, targets, &stats, &err), "backward");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(a, tokens, targets, 2, 16, &stats, &err),
            "backward");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_step(a, tokens, targets, &stats, &err), "backward");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(a, &stats, &err), "backward");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(a, 0, n, 1.0, &stats, &err), "backward");
    CHECK(llm_trainer_backward(a, &err) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_backward(a, &err), "forward");
    CHECK(llm_trainer_update(a, NULL, &err) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(a, &stats, &err), "backward");
    CHECK(llm_trainer_forward(b, tokens, targets, NULL, NULL) == LLM_OK);
    CHECK(llm_trainer_backward(b, NULL) == LLM_OK && llm_trainer_update(b, NULL, NULL) == LLM_OK);
    CHECK_MSG(weights_are(a, llm_trainer_weights(b, NULL)), "the refused calls left traces");
    /* trainers free themselves in any state */
    CHECK(llm_trainer_forward(a, tokens, targets, NULL, &err) == LLM_OK);
    llm_trainer_free(a);
    a = new_trainer(model, &d);        /* and make room for another */
    CHECK(llm_trainer_create(model, &d, &err) == NULL && err.code == LLM_ERR_ARGUMENT);
    llm_trainer_free(NULL);
    drop_trainer(a);
    drop_trainer(b);
}

TEST(trainer_bad_desc) {
    const llm_config c = small_config(41, 16, 20, 1, 2);
    llm_memory memory;
    llm_error err;
    heap h;
    llm_model *model = model_in(&h, &c, 0, 1);
    llm_train_desc good = train_desc(2, 16, 1), d;
    const long live = h.live;
    int i;
    static const field_value bad[] = {
        BOUNDED(llm_train_desc, batch_size, 0, "1"), BOUNDED(llm_train_desc, batch_size, -3, "1"),
        BOUNDED(llm_train_desc, batch_size, 2147483647, "16"),
        BOUNDED(llm_train_desc, seq_len, 0, "1"), BOUNDED(llm_train_desc, seq_len, -1, "1"),
        BOUNDED(llm_train_desc, seq_len, 17, "16"),
        BOUNDED(llm_train_desc, grad_accum_steps, -1, "1"),
        BOUNDED(llm_train_desc, max_steps, 0, "1"), BOUNDED(llm_train_desc, max_steps, -5, "1"),
        BOUNDED(llm_train_desc, warmup_steps, -1, "0"),
        BOUNDED(llm_train_desc, warmup_steps, -2147483648, "0"),
        BOUNDED(llm_train_desc, max_steps, -2147483648, "1"),
        BOUNDED(llm_train_desc, warmup_steps, 101, "100"),
        BOUNDED(llm_train_desc, decay_steps, -1, NULL), BOUNDED(llm_train_desc, schedule, 17, NULL),
        BOUNDED(llm_train_desc, precision, 3, "2"), BOUNDED(llm_train_desc, n_threads, -1, NULL),
        BOUNDED(llm_train_desc, n_threads, 1025, "1024"), REAL(llm_train_desc, learning_rate, -0.5),
        REAL(llm_train_desc, learning_rate, (double)NAN), REAL(llm_train_desc, min_lr_ratio, 1.5),
        REAL(llm_train_desc, beta1, 1.0), REAL(llm_train_desc, beta1, -0.5),
        REAL(llm_train_desc, beta2, 1.0), REAL(llm_train_desc, adam_eps, -0.5),
        REAL(llm_train_desc, adam_eps, LLM_OFF), REAL(llm_train_desc, weight_decay, -0.5),
        REAL(llm_train_desc, weight_decay, (double)NAN), REAL(llm_train_desc, grad_clip, -0.5),
        REAL(llm_train_desc, grad_clip, (double)NAN), REAL(llm_train_desc, label_smoothing, 1.0),
        REAL(llm_train_desc, dropout, 1.0), REAL(llm_train_desc, dropout, -0.5),
        REAL(llm_train_desc, label_smoothing, -0.5)};
    if (!model) return;
    good.schedule = LLM_SCHEDULE_WSD;
    good.max_steps = 100;
    for (i = 0; i < (int)(sizeof bad / sizeof bad[0]); i++) {
        d = good;
        set_field(&d, &bad[i]);
        NOT_MADE(LLM_ERR_ARGUMENT, llm_trainer_create(model, &d, &err), WORDS(bad[i]));
        REFUSED(LLM_ERR_ARGUMENT, llm_train_memory(&c, &d, &memory, &err), WORDS(bad[i]));
    }
    d = good;
    d.shard_first = 1u << 30;
    d.shard_count = 5;
    CHECK(llm_trainer_create(model, &d, &err) == NULL && err.code == LLM_ERR_ARGUMENT);
    d.shard_first = 5;
    d.shard_count = (size_t)-2;
    CHECK(llm_trainer_create(model, &d, &err) == NULL && err.code == LLM_ERR_ARGUMENT);
    CHECK(llm_trainer_create(NULL, &good, &err) == NULL && err.code == LLM_ERR_ARGUMENT);
    CHECK(llm_trainer_create(model, NULL, &err) == NULL && err.code == LLM_ERR_ARGUMENT);
    CHECK(llm_train_memory(NULL, &good, &memory, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_train_memory(&c, NULL, &memory, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_train_memory(&c, &good, NULL, &err) == LLM_ERR_ARGUMENT);
    /* a batch larger than memory */
    d = train_desc(INT_MAX / 16, 16, 1);
    memset(&err, 0, sizeof err);
    CHECK(llm_trainer_create(model, &d, &err) == NULL && err.code == LLM_ERR_MEMORY);
    CHECK_MSG(h.live == live, "%ld left", h.live - live);
    /* legal at the edges: warm-up close to the end where nothing decays over decay_steps */
    d = train_desc(2, 16, 1);
    d.schedule = LLM_SCHEDULE_COSINE;
    d.max_steps = 100;
    d.warmup_steps = 95;
    CHECK_MSG(llm_train_memory(&c, &d, &memory, &err) == LLM_OK, "cosine, warm-up 95 of 100: %s",
              err.message);
    d.schedule = LLM_SCHEDULE_LINEAR;
    d.warmup_steps = 100;
    CHECK_MSG(llm_train_memory(&c, &d, &memory, &err) == LLM_OK, "linear, warm-up 100 of 100: %s",
              err.message);
    llm_model_free(model);
    CHECK(h.live == 0);
}

TEST(trainer_bad_batch) {
    llm_trainer *t = small_trainer(2, 12);
    llm_error err;
    int32_t tokens[40], targets[40];
    static const int32_t outside[3] = {-1, 41, INT32_MIN};
    float *before;
    int i;
    if (!t) return;
    before = copy_weights(t);
    random_batch(tokens, targets, 40, 41, 0.1, 3);
    for (i = 0; i < 3; i++) {
        char value[32];
        snprintf(value, sizeof value, "%ld", (long)outside[i]);
        tokens[13] = outside[i];
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(t, tokens, targets, NULL, &err), value, "13",
                "41");
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_step(t, tokens, targets, NULL, &err), value, "13",
                "41");
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 2, 12, NULL, &err),
                value, "13", "41");
        tokens[13] = 0;
        targets[5] = outside[i];
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(t, tokens, targets, NULL, &err), value, "5",
                "41");
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 2, 12, NULL, &err),
                value, "5", "41");
        targets[5] = 0;
    }
    tokens[0] = LLM_IGNORE_INDEX;
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(t, tokens, targets, NULL, &err), "-100", "41");
    tokens[0] = 0;
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 3, 12, NULL, &err), "B", "3",
            "2");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 0, 12, NULL, &err), "B", "0",
            "1");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 1, 13, NULL, &err), "T",
            "13", "12");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(t, tokens, targets, 1, 0, NULL, &err), "T", "0",
            "1");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(NULL, tokens, targets, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(t, NULL, targets, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_forward(t, tokens, NULL, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_step(NULL, tokens, targets, NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_evaluate(NULL, tokens, targets, 1, 1, NULL, &err),
            "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_backward(NULL, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(NULL, NULL, &err), "NULL");
    CHECK(llm_trainer_update_range(NULL, 0, 1, 1.0, NULL, NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_trainer_gradients(NULL, NULL) == NULL && llm_trainer_weights(NULL, NULL) == NULL);
    CHECK(llm_trainer_gradient_scale(NULL) == 0.0 && llm_trainer_gradient(NULL, 0).data == NULL);
    CHECK(llm_trainer_gradient(t, 100000).data == NULL);
    CHECK(weights_are(t, before));
    CHECK(llm_trainer_step(t, tokens, targets, NULL, &err) ==
          LLM_OK); /* none of them counts as a forward */
    free(before);
    drop_trainer(t);
}

TEST(trainer_user_data_and_files) {
    llm_trainer *t = small_trainer(2, 12);
    llm_error err;
    size_t size = 7;
    if (!t) return;
    llm_trainer_user_data(t, &size);
    CHECK(size == 0);
    CHECK(llm_trainer_set_user_data(t, "position 12", 12, &err) == LLM_OK);
    CHECK(strcmp((const char *)llm_trainer_user_data(t, &size), "position 12") == 0 && size == 12);
    CHECK(llm_trainer_set_user_data(t, "x", 2, &err) == LLM_OK);
    CHECK(strcmp((const char *)llm_trainer_user_data(t, &size), "x") == 0 && size == 2);
    CHECK(llm_trainer_set_user_data(t, NULL, 3, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_trainer_user_data(NULL, NULL) == NULL);
    drop_trainer(t);
}

/* ---- evaluate -------------------------------------------------------------------------------- */
TEST(trainer_evaluate_touches_nothing) {
    llm_config c = small_config(61, 24, 24, 2, 3);
    llm_train_desc d = train_desc(3, 20, 2);
    llm_trainer *a, *b;
    llm_train_stats se;
    int32_t tokens[60], targets[60], other[60];
    float *gradients, logprobs[60];
    double sum, valid;
    size_t count;
    int step, i;
    c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = 0.2f;
    d.grad_accum_steps = 2;
    d.seed = 99;
    a = shaken_trainer(&c, 7, &d);
    b = shaken_trainer(&c, 7, &d);
    if (!a || !b) return;
    random_tokens(other, 60, 61, 77);
    for (step = 0; step < 6; step++) {
        float *before;
        random_batch(tokens, targets, 60, 61, 0.2, 5 + (uint64_t)step);
        CHECK(llm_trainer_step(a, tokens, targets, NULL, NULL) == LLM_OK);
        before = copy_weights(a);
        gradients = new_floats(1 + (llm_trainer_gradients(a, &count), count));
        memcpy(gradients, llm_trainer_gradients(a, NULL), count * sizeof(float));
        CHECK(llm_trainer_evaluate(a, other, tokens, 3, 20, &se, NULL) == LLM_OK);
        CHECK(llm_trainer_evaluate(a, other, targets, 2, 7, &se, NULL) == LLM_OK);
        CHECK(weights_are(a, before) &&
              same_bits(gradients, llm_trainer_gradients(a, NULL), count));
        CHECK(se.step == (step + 1) / 2 && se.tokens == (step + 1) * 60);
        CHECK(llm_model_score(a->model, other, targets, 2, 7, logprobs, NULL) == LLM_OK);
        for (i = 0, sum = valid = 0.0; i < 14; i++) {
            sum -= (double)logprobs[i];
            valid += targets[i] != LLM_IGNORE_INDEX;
        }
        CHECK_MSG(fabs(sum / valid - (double)se.loss) < 1e-5 * sum / valid, "evaluate %g, score %g",
                  (double)se.loss, sum / valid);
        free(before);
        free(gradients);
        CHECK(llm_trainer_step(b, tokens, targets, NULL, NULL) == LLM_OK);
    }
    CHECK_MSG(weights_are(a, llm_trainer_weights(b, NULL)),
              "training with evaluations goes elsewhere");
    drop_trainer(a);
    drop_trainer(b);
}

/* without dropout it is forward's loss, to the bit */
TEST(trainer_evaluate_is_forward) {
    const llm_config c = small_config(61, 24, 24, 2, 3);
    const llm_train_desc d = train_desc(3, 20, 2);
    llm_trainer *t = shaken_trainer(&c, 7, &d);
    llm_train_stats said, want;
    int32_t tokens[60], targets[60];
    if (!t) return;
    random_batch(tokens, targets, 60, 61, 0.2, 5);
    CHECK(llm_trainer_evaluate(t, tokens, targets, 3, 20, &said, NULL) == LLM_OK);
    CHECK(llm_trainer_forward(t, tokens, targets, &want, NULL) == LLM_OK &&
          llm_trainer_backward(t, NULL) == LLM_OK);
    CHECK(said.loss == want.loss && said.accuracy == want.accuracy &&
          said.perplexity == want.perplexity);
    drop_trainer(t);
}

/* A batch of any size has the losses that it has inside a larger one whose other targets count for
 * nothing; its balance loss is that of a trainer of its size. */
TEST(trainer_evaluate_with_modules) {
    enum { B = 3, T = 12 };
    static const int sizes[][2] = {{B, T}, {2, 7}, {1, 5}, {B, 3}, {2, 2}, {1, 1}, {B, 1}};
    const llm_config c = deepseek_config(1, 1, 41, 24, 2);
    llm_model *models[2];
    llm_train_desc d = train_desc(B, T, 2);
    llm_trainer *t, *other;
    llm_train_stats got, want;
    int32_t tokens[B * T], targets[B * T], all[B * T], valid[B * T];
    float *before, *gradients;
    size_t count;
    int i, b, at, k;
    for (i = 0; i < 2; i++) models[i] = shaken_model(&c, 7, 2, NULL);
    if (!models[0] || !models[1]) return;
    d.router_aux_alpha = 0.01f;
    d.label_smoothing = 0.1f;
    d.mtp_lambda = 0.7f;
    d.grad_accum_steps = 2;
    t = new_trainer(models[0], &d);
    if (!t) return;
    random_batch(tokens, targets, B * T, 41, 0.2, 5);
    CHECK(llm_trainer_step(t, tokens, targets, NULL, NULL) == LLM_OK);
    before = copy_weights(t);
    (void)llm_trainer_gradients(t, &count);
    gradients = copied(llm_trainer_gradients(t, NULL), count);
    for (i = 0; i < (int)(sizeof sizes / sizeof sizes[0]); i++) {
        const int rows = sizes[i][0], width = sizes[i][1];
        random_batch(tokens, targets, (size_t)(rows * width), 41, width > 3 ? 0.3 : 0.0,
                     8 + (uint64_t)i);
        CHECK(llm_trainer_evaluate(t, tokens, targets, rows, width, &got, NULL) == LLM_OK);
        random_tokens(all, B * T, 41, 99);
        for (b = 0; b < B * T; b++) valid[b] = LLM_IGNORE_INDEX;
        for (b = 0; b < rows; b++)
            for (at = 0; at < width; at++) {
                all[b * T + at] = tokens[b * width + at];
                valid[b * T + at] = targets[b * width + at];
            }
        other = new_trainer(models[1], &d);
        if (!other) return;
        CHECK(llm_trainer_forward(other, all, valid, &want, NULL) == LLM_OK);
        CHECK_MSG(fabs((double)(got.loss - want.loss)) < 1e-5 &&
                      fabs((double)(got.main_loss - want.main_loss)) < 1e-5,
                  "%d x %d: loss %g (main %g), not %g (%g)", rows, width, (double)got.loss,
                  (double)got.main_loss, (double)want.loss, (double)want.main_loss);
        for (k = 0; k < 4; k++) {
            CHECK_MSG(fabs((double)(got.mtp_loss[k] - want.mtp_loss[k])) < 1e-5,
                      "%d x %d: module %d has %g, not %g", rows, width, k + 1,
                      (double)got.mtp_loss[k], (double)want.mtp_loss[k]);
            CHECK((got.mtp_loss[k] > 0.0f) == (k < 2 && k + 1 < width));
        }
        CHECK(fabs((double)(got.accuracy - want.accuracy)) < 1e-6 &&
              fabs((double)(got.perplexity / want.perplexity) - 1.0) < 1e-4);
        llm_trainer_free(other);
        if (width > c.mtp_depth) {
            llm_train_desc exact = d;
            exact.batch_size = rows;
            exact.seq_len = width;
            other = new_trainer(models[1], &exact);
            if (!other) return;
            CHECK(llm_trainer_forward(other, tokens, targets, &want, NULL) == LLM_OK);
            CHECK_MSG(want.balance_loss > 0.0f &&
                          fabs((double)(got.balance_loss / want.balance_loss) - 1.0) < 1e-5,
                      "%d x %d: balance loss %g, not %g", rows, width, (double)got.balance_loss,
                      (double)want.balance_loss);
            CHECK(fabs((double)(got.loss - want.loss)) < 1e-5);
            llm_trainer_free(other);
        }
    }
    CHECK(weights_are(t, before) && same_bits(gradients, llm_trainer_gradients(t, NULL), count));
    free(before);
    drop(gradients);
    llm_trainer_free(t);
    for (i = 0; i < 2; i++) llm_model_free(models[i]);
}

/* ---- not finite ------------------------------------------------------------------------------ */
TEST(trainer_survives_what_is_not_finite) {
    llm_config c = small_config(61, 24, 24, 2, 3);
    llm_train_desc d = train_desc(2, 20, 2);
    llm_trainer *a, *b;
    llm_train_stats stats;
    llm_error err;
    int32_t tokens[3][40], targets[3][40];
    int round;
    static const float poison[3] = {(float)NAN, (float)INFINITY, -(float)INFINITY};
    c.resid_pdrop = 0.1f;
    d.grad_accum_steps = 2;
    a = shaken_trainer(&c, 7, &d);
    b = shaken_trainer(&c, 7, &d);
    if (!a || !b) return;
    for (round = 0; round < 3; round++)
        random_batch(tokens[round], targets[round], 40, 61, 0.2, 5 + (uint64_t)round);
    for (round = 0; round < 7; round++) {
        float *before = copy_weights(a),
              *w = (float *)llm_model_tensor(a->model, round % 2 ? 0 : 4).data;
        const float kept = w[tokens[1][3] * 24];
        const int64_t step =
            (llm_trainer_evaluate(a, tokens[0], targets[0], 1, 5, &stats, NULL), stats.step);
        memset(&err, 0, sizeof err);
        if (round < 6) { /* a weight that is not finite, seen in the second micro-batch */
            CHECK(llm_trainer_step(a, tokens[0], targets[0], NULL, &err) == LLM_OK);
            CHECK(llm_trainer_step(b, tokens[0], targets[0], NULL, &err) == LLM_OK);
            w[tokens[1][3] * 24] = poison[round / 2];
            REFUSED(LLM_ERR_NUMERIC, llm_trainer_step(a, tokens[1], targets[1], &stats, &err),
                    "loss");
            CHECK(llm_trainer_evaluate(a, tokens[1], targets[1], 2, 20, &stats, &err) ==
                  LLM_ERR_NUMERIC);
            w[tokens[1][3] * 24] = kept;
        } else { /* a gradient */
            CHECK(llm_trainer_step(a, tokens[0], targets[0], NULL, &err) == LLM_OK);
            CHECK(llm_trainer_step(b, tokens[0], targets[0], NULL, &err) == LLM_OK);
            CHECK(llm_trainer_forward(a, tokens[1], targets[1], NULL, &err) == LLM_OK);
            CHECK(llm_trainer_forward(b, tokens[1], targets[1], NULL, &err) == LLM_OK);
            CHECK(llm_trainer_backward(a, &err) == LLM_OK &&
                  llm_trainer_backward(b, &err) == LLM_OK);
            llm_trainer_gradients(a, NULL)[100] = (float)INFINITY;
            llm_trainer_gradients(b, NULL)[100] = (float)NAN;
            REFUSED(LLM_ERR_NUMERIC, llm_trainer_update(a, &stats, &err), "norm");
            REFUSED(LLM_ERR_NUMERIC, llm_trainer_update(b, &stats, &err), "norm");
        }
        CHECK_MSG(weights_are(a, before), "round %d: weights changed", round);
        free(before);
        CHECK(llm_trainer_gradient_scale(a) == 0.0);
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update(a, &stats, &err), "backward");
        REFUSED(LLM_ERR_ARGUMENT, llm_trainer_backward(a, &err), "forward");
        CHECK(llm_trainer_evaluate(a, tokens[0], targets[0], 1, 5, &stats, NULL) == LLM_OK &&
              stats.step == step);
        /* b, which has seen no such thing, forgets its first half, too; then both go on in step */
        llmi_trainer_drop(b);
        CHECK(llm_trainer_step(a, tokens[1], targets[1], NULL, &err) == LLM_OK);
        CHECK(llm_trainer_step(a, tokens[2], targets[2], &stats, &err) == LLM_OK &&
              stats.step == step + 1);
        CHECK(llm_trainer_step(b, tokens[1], targets[1], NULL, &err) == LLM_OK);
        CHECK(llm_trainer_step(b, tokens[2], targets[2], NULL, &err) == LLM_OK);
        CHECK_MSG(weights_are(a, llm_trainer_weights(b, NULL)),
                  "round %d: training goes elsewhere afterwards", round);
    }
    CHECK(llm_trainer_forward(a, tokens[0], targets[0], NULL, NULL) == LLM_OK);
    CHECK(llm_trainer_backward(a, NULL) == LLM_OK);
    REFUSED(LLM_ERR_ARGUMENT, llm_trainer_update_range(a, 0, 5, -0.5, NULL, &err), "-0.5");
    CHECK(llm_trainer_update_range(a, 0, 5, (double)NAN, NULL, &err) == LLM_ERR_NUMERIC);
    drop_trainer(a);
    drop_trainer(b);
}

/* ---- determinism ----------------------------------------------------------------------------- */
TEST(trainer_threads_give_the_same_bits) {
    static const int threads[] = {1, 2, 3, 7};
    const llmi_kernels *kernels;
    int k, i, step;
    for (k = 0; (kernels = kernels_at(k)) != NULL; k++) {
        float *first = NULL;
        size_t n = 0;
        for (i = 0; i < 4; i++) {
            llm_config c = small_config(301, 70, 48, 2, 3);
            llm_train_desc d = train_desc(5, 70, threads[i]);
            llm_trainer *t;
            c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = 0.1f;
            t = shaken_trainer(&c, 7, &d);
            if (!t) return;
            trainer_use(t, kernels);
            for (step = 0; step < 3; step++) {
                int32_t tokens[350], targets[350];
                random_batch(tokens, targets, 350, 301, 0.2, 5 + (uint64_t)step);
                CHECK(llm_trainer_step(t, tokens, targets, NULL, NULL) == LLM_OK);
            }
            llm_trainer_weights(t, &n);
            if (i == 0) first = copy_weights(t);
            else
                CHECK_MSG(weights_are(t, first), "%s: %d threads give other bits than one",
                          kernels->name, threads[i]);
            drop_trainer(t);
        }
        free(first);
    }
}

/* recompute is the same forward again */
TEST(trainer_recompute_gives_the_same_bits) {
    llm_config c = small_config(101, 40, 24, 3, 3);
    float *first = NULL;
    llm_memory memory[2];
    int i, step;
    c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = 0.1f;
    for (i = 0; i < 2; i++) {
        llm_train_desc d = train_desc(3, 40, 2);
        llm_trainer *t;
        d.recompute = i;
        CHECK(llm_train_memory(&c, &d, &memory[i], NULL) == LLM_OK);
        t = shaken_trainer(&c, 7, &d);
        if (!t) return;
        for (step = 0; step < 3; step++) {
            int32_t tokens[120], targets[120];
            random_batch(tokens, targets, 120, 101, 0.2, 5 + (uint64_t)step);
            CHECK(llm_trainer_step(t, tokens, targets, NULL, NULL) == LLM_OK);
        }
        if (i == 0) first = copy_weights(t);
        else CHECK(weights_are(t, first));
        drop_trainer(t);
    }
    CHECK(memory[1].activations < memory[0].activations &&
          memory[1].parameters == memory[0].parameters);
    free(first);
}

/* ---- dropout --------------------------------------------------------------------------------- */
static double dropout_loss(llm_model *model, uint64_t seed, int skip, const int32_t *tokens,
                           const int32_t *targets) {
    llm_train_desc d = train_desc(2, 20, 1);
    llm_train_stats stats;
    llm_trainer *t;
    d.seed = seed;
    memset(&stats, 0, sizeof stats);
    t = new_trainer(model, &d);
    if (!t) return 0.0;
    for (; skip >= 0; skip--) {
        CHECK(llm_trainer_forward(t, tokens, targets, &stats, NULL) == LLM_OK);
        CHECK(llm_trainer_backward(t, NULL) == LLM_OK);
    }
    llm_trainer_free(t);
    return (double)stats.loss;
}

/* the desc's dropout goes before the configuration's */
TEST(trainer_dropout_of_the_desc) {
    llm_config c = small_config(61, 24, 24, 2, 3);
    llm_train_desc d = train_desc(2, 20, 1);
    int32_t tokens[40], targets[40];
    double losses[3][3];               /* of models with none, some, the same; desc 0, OFF, 0.3 */
    int i, k;
    random_batch(tokens, targets, 40, 61, 0.2, 5);
    for (i = 0; i < 3; i++)
        for (k = 0; k < 3; k++) {
            llm_trainer *t;
            llm_train_stats stats;
            c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = i == 0 ? 0.0f : i == 1 ? 0.1f : 0.3f;
            d.dropout = k == 0 ? 0.0f : k == 1 ? LLM_OFF : 0.3f;
            t = shaken_trainer(&c, 7, &d);
            if (!t) return;
            CHECK(llm_trainer_forward(t, tokens, targets, &stats, NULL) == LLM_OK);
            losses[i][k] = (double)stats.loss;
            drop_trainer(t);
        }
    CHECK(losses[0][0] == losses[0][1] && losses[1][1] == losses[0][0] &&
          losses[2][1] == losses[0][0]);
    CHECK(losses[0][2] == losses[2][0] && losses[1][2] == losses[2][0] &&
          losses[2][2] == losses[2][0]);
    CHECK(losses[1][0] != losses[0][0] && losses[2][0] != losses[0][0] &&
          losses[1][0] != losses[2][0]);
}

TEST(trainer_dropout) {
    llm_config c = small_config(61, 24, 24, 2, 3);
    llm_model *model;
    int32_t tokens[40], targets[40];
    double plain, mean = 0.0, deviation = 0.0;
    int which, i;
    random_batch(tokens, targets, 40, 61, 0.2, 5);
    model = shaken_model(&c, 7, 1, NULL);
    if (!model) return;
    plain = dropout_loss(model, 0, 0, tokens, targets);
    CHECK(dropout_loss(model, 1, 0, tokens, targets) == plain);
    llm_model_free(model);
    for (which = 0; which < 3; which++) {
        double a;
        c.embd_pdrop = which == 0 ? 0.3f : 0.0f;
        c.attn_pdrop = which == 1 ? 0.3f : 0.0f;
        c.resid_pdrop = which == 2 ? 0.3f : 0.0f;
        model = shaken_model(&c, 7, 1, NULL);
        if (!model) return;
        a = dropout_loss(model, 5, 0, tokens, targets);
        CHECK_MSG(a != plain, "dropout %d has no effect", which);
        CHECK_MSG(a == dropout_loss(model, 5, 0, tokens, targets),
                  "dropout %d: same seed, other loss", which);
        CHECK_MSG(a != dropout_loss(model, 6, 0, tokens, targets),
                  "dropout %d: other seed, same loss", which);
        CHECK_MSG(a != dropout_loss(model, 5, 1, tokens, targets),
                  "dropout %d: the same mask twice", which);
        llm_model_free(model);
    }
    /* The masks are unbiased. With the embedding's alone and one narrow dropout rate, the loss
     * is nearly linear in them: its mean comes close to the loss without. */
    c.attn_pdrop = c.resid_pdrop = 0.0f;
    c.embd_pdrop = 0.02f;
    model = shaken_model(&c, 7, 1, NULL);
    if (!model) return;
    for (i = 0; i < 100; i++) {
        const double difference =
            dropout_loss(model, 100 + (uint64_t)i, 0, tokens, targets) - plain;
        mean += difference / 100.0;
        deviation += difference * difference / 100.0;
    }
    CHECK_MSG(fabs(mean) < 0.5 * sqrt(deviation) && sqrt(deviation) < 0.1 * plain,
              "loss %g, with dropout on average %g more, deviation %g", plain, mean,
              sqrt(deviation));
    llm_model_free(model);
}

/* With seed and number of the forward fixed, so are the masks: the loss is a function of the
 * weights. Along a tensor's own gradient its slope is the gradient's length. */
TEST(trainer_gradient_with_dropout) {
    llm_config c = small_config(31, 20, 12, 2, 3);
    llm_model *model;
    llm_train_desc d = train_desc(2, 20, 1);
    llm_trainer *t;
    int32_t tokens[40], targets[40];
    float *gradients;
    size_t i, j;
    int round;
    random_batch(tokens, targets, 40, 31, 0.2, 5);
    for (round = 0; round < 2; round++) {
        c.embd_pdrop = c.resid_pdrop = 0.2f;
        c.attn_pdrop = 0.3f;
        model = shaken_model(&c, 7, 1, NULL);
        if (!model) return;
        d.seed = 5;
        d.recompute = round;
        t = new_trainer(model, &d);
        if (!t) return;
        CHECK(llm_trainer_forward(t, tokens, targets, NULL, NULL) == LLM_OK &&
              llm_trainer_backward(t, NULL) == LLM_OK);
        gradients = copy_gradients(t);
        llm_trainer_free(t);
        for (i = 0; i < llm_model_tensor_count(model); i++) {
            const llm_tensor w = llm_model_tensor(model, i);
            const size_t n = tensor_size(&w);
            const float *g =
                gradients + ((float *)w.data - (float *)llm_model_tensor(model, 0).data);
            float *kept = new_floats(n), *x = (float *)w.data;
            double length = 0.0, up, down, slope;
            const double h = 0.01;
            for (j = 0; j < n; j++) length += (double)g[j] * (double)g[j];
            length = sqrt(length);
            memcpy(kept, x, n * sizeof(float));
            for (j = 0; j < n; j++) x[j] = (float)((double)kept[j] + h * (double)g[j] / length);
            up = dropout_loss(model, 5, 0, tokens, targets);
            for (j = 0; j < n; j++) x[j] = (float)((double)kept[j] - h * (double)g[j] / length);
            down = dropout_loss(model, 5, 0, tokens, targets);
            memcpy(x, kept, n * sizeof(float));
            slope = (up - down) / (2.0 * h);
            CHECK_MSG(fabs(slope - length) < 0.01 * length + 1e-3, "%s: slope %g, length %g",
                      w.name, slope, length);
            free(kept);
        }
        free(gradients);
        llm_model_free(model);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */
TEST(trainer_memory_is_what_was_said) {
    int variant;
    for (variant = 0; variant < 6; variant++) {
        llm_config c = small_config(variant == 1 ? 9000 : 1200, 256, 128, 4, 4);
        llm_train_desc d =
            train_desc(variant == 2 ? 9 : 2, variant == 3 ? 256 : 64, variant == 5 ? 2 : 1);
        llm_memory memory;
        llm_model *model;
        llm_trainer *t;
        llm_error err;
        heap h;
        size_t weights, peak;
        int32_t *tokens = (int32_t *)calloc(9 * 256, sizeof(int32_t));
        c.tie_embeddings = variant != 4;
        d.recompute = variant == 4;
        CHECK(llm_train_memory(&c, &d, &memory, &err) == LLM_OK);
        CHECK(memory.total == memory.parameters + memory.gradients + memory.optimizer +
                                  memory.activations + memory.scratch);
        model = model_in(&h, &c, 0, 1);
        t = model ? new_trainer(model, &d) : NULL;
        if (!t) return;
        llm_trainer_weights(t, &weights);
        CHECK(memory.parameters == 4 * weights && memory.optimizer == 8 * weights &&
              memory.gradients >= 4 * weights);
        CHECK_MSG(fabs((double)h.bytes / (double)memory.total - 1.0) < 0.02,
                  "variant %d: %lu bytes foretold, %lu allocated", variant,
                  (unsigned long)memory.total, (unsigned long)h.bytes);
        peak = h.bytes;
        CHECK(llm_trainer_step(t, tokens, tokens, NULL, &err) == LLM_OK && h.bytes == peak);
        llm_trainer_free(t);
        llm_model_free(model);
        CHECK(h.live == 0);
        /* nothing needs to fit in this machine to be foretold */
        CHECK(llm_config_preset(&c, "gpt3-175b", NULL) == LLM_OK);
        d = train_desc(8, 2048, 1);
        CHECK(llm_train_memory(&c, &d, &memory, &err) == LLM_OK);
        CHECK(memory.optimizer >= 8 * llm_config_param_count(&c) &&
              memory.total > 2 * memory.optimizer);
        free(tokens);
    }
}

/* ---- it learns ------------------------------------------------------------------------------- */
TEST(trainer_memorises) {
    llm_config c = small_config(40, 32, 32, 2, 4);
    const llm_model_desc md = model_desc(3, 2, NULL);
    llm_model *model = llm_model_create(&c, &md, NULL);
    llm_train_desc d = train_desc(2, 31, 2);
    llm_trainer *t;
    llm_train_stats stats;
    llm_session *session;
    int32_t text[64], tokens[62], targets[62], out[28];
    double first = 0.0;
    int step, b;
    memset(&stats, 0, sizeof stats);
    if (!model) return;
    d.schedule = LLM_SCHEDULE_COSINE;
    d.max_steps = 200;
    d.warmup_steps = 10;
    d.learning_rate = 0.01f;
    t = new_trainer(model, &d);
    if (!t) return;
    random_tokens(text, 64, 40, 12);
    text[0] = 1;
    text[32] = 2;
    for (b = 0; b < 2; b++) {
        memcpy(tokens + 31 * b, text + 32 * b, 31 * sizeof(int32_t));
        memcpy(targets + 31 * b, text + 32 * b + 1, 31 * sizeof(int32_t));
    }
    for (step = 0; step < 200; step++) {
        CHECK(llm_trainer_step(t, tokens, targets, &stats, NULL) == LLM_OK);
        if (step == 0) first = (double)stats.loss;
    }
    CHECK_MSG(fabs(first - log(40.0)) < 0.2, "the first loss is %g", first);
    CHECK_MSG(stats.loss < 0.02f && stats.accuracy == 1.0f && stats.perplexity < 1.03f,
              "after 200 steps: %g", (double)stats.loss);
    llm_trainer_free(t);
    session = llm_session_create(model, NULL, NULL);
    CHECK(session != NULL);
    if (session) {
        CHECK(llm_generate(session, text + 32, 4, NULL, out, 28, NULL, NULL) == LLM_OK);
        CHECK(memcmp(out, text + 36, sizeof out) == 0);
    }
    llm_session_free(session);
    llm_model_free(model);
}

/* a resolved desc means what it meant, and says so; a refused one is as it was */
TEST(trainer_desc_resolves) {
    const llm_config c = deepseek_config(1, 0, 40, 16, 1);
    llm_train_desc d = train_desc(2, 8, 1), once, bad;
    llm_session_desc s;
    llm_error err;
    memset(&s, 0, sizeof s);
    d.learning_rate = 0.0f;
    d.weight_decay = LLM_OFF;
    d.dropout = LLM_OFF;
    d.warmup_steps = 10;
    d.max_steps = 200;
    CHECK(llm_train_desc_resolve(&d, &c, &err) == LLM_OK);
    CHECK(d.grad_accum_steps == 1 && d.learning_rate == 3e-4f && d.min_lr_ratio == 0.1f);
    CHECK(d.beta1 == 0.9f && d.beta2 == 0.95f && d.adam_eps == 1e-8f && d.grad_clip == 1.0f);
    CHECK(d.mtp_lambda == 0.3f && d.router_bias_speed == 0.001f && d.router_aux_alpha == 0.0001f);
    CHECK(d.weight_decay == LLM_OFF && d.dropout == LLM_OFF && d.decay_steps == 20);
    CHECK(d.shard_first == 0 && d.shard_count >= llm_config_param_count(&c));
    once = d;
    CHECK(llm_train_desc_resolve(&d, &c, &err) == LLM_OK && !memcmp(&once, &d, sizeof d));
    bad = d;
    bad.beta1 = 1.0f;
    once = bad;
    REFUSED(LLM_ERR_ARGUMENT, llm_train_desc_resolve(&bad, &c, &err), "beta1 1", "[0, 1)");
    CHECK(!memcmp(&once, &bad, sizeof bad));
    REFUSED(LLM_ERR_ARGUMENT, llm_train_desc_resolve(NULL, &c, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_train_desc_resolve(&d, NULL, &err), "NULL");
    CHECK(llm_session_desc_resolve(&s, &c, &err) == LLM_OK);
    CHECK(s.max_seq_len == 16 && s.n_sequences == 1);
    s.max_seq_len = 17;
    REFUSED(LLM_ERR_ARGUMENT, llm_session_desc_resolve(&s, &c, &err), "max_seq_len 17", "[1, 16]");
    CHECK(s.max_seq_len == 17 && s.n_sequences == 1);
}

static void run_trainer(void) {
    RUN(trainer_ten_steps_of_pytorch);
    RUN(trainer_desc_resolves);
    RUN(trainer_schedules_of_pytorch);
    RUN(trainer_follows_the_schedule);
    RUN(trainer_schedule_defaults);
    RUN(trainer_adamw_op);
    RUN(trainer_clip_op);
    RUN(trainer_update_in_double);
    RUN(trainer_loads_accumulate);
    RUN(trainer_accumulation_equals_the_large_batch);
    RUN(trainer_processes_and_shards);
    RUN(trainer_ranges_equal_the_whole);
    RUN(trainer_ignored_is_absent);
    RUN(trainer_slices_in_order);
    RUN(trainer_without_a_valid_target);
    RUN(trainer_wrong_order);
    RUN(trainer_bad_desc);
    RUN(trainer_bad_batch);
    RUN(trainer_user_data_and_files);
    RUN(trainer_evaluate_touches_nothing);
    RUN(trainer_evaluate_is_forward);
    RUN(trainer_evaluate_with_modules);
    RUN(trainer_survives_what_is_not_finite);
    RUN(trainer_threads_give_the_same_bits);
    RUN(trainer_recompute_gives_the_same_bits);
    RUN(trainer_dropout_of_the_desc);
    RUN(trainer_dropout);
    RUN(trainer_gradient_with_dropout);
    RUN(trainer_memory_is_what_was_said);
    RUN(trainer_memorises);
}
