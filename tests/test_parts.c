/* The parts of the two models as ops: central differences along each gradient, the router against a
 * plain one, SwiGLU and RoPE in double precision, the MTP loss against its definition; speculation
 * against plain decoding; the DeepSeek presets' counts. */

/* ---- SwiGLU and RoPE ------------------------------------------------------------------------- */
TEST(swiglu_values_and_gradients) {
    static const size_t sizes[] = {1, 7, 16, 33, 4099};
    int t, s;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 2);
        for (s = 0; s < 5; s++) {
            const size_t n = sizes[s];
            float *gate = noise(n, 3.0, 1), *up = noise(n, 2.0, 2), *dy = noise(n, 1.0, 3);
            float *y = floats(n), *dgate = filled(n, 0.25f), *dup = filled(n, -0.5f);
            size_t i;
            gate[0] = -100.0f;
            if (n > 1) gate[1] = 100.0f;
            llm_swiglu_forward(context, y, gate, up, n);
            llm_swiglu_backward(context, dgate, dup, dy, gate, up, n);
            for (i = 0; i < n; i++) {
                const double g = (double)gate[i], u = (double)up[i], d = (double)dy[i];
                const double sig = 1.0 / (1.0 + exp(-g));
                const double want = g * sig * u,
                             want_gate = 0.25 + d * u * sig * (1.0 + g * (1.0 - sig));
                const double want_up = -0.5 + d * g * sig,
                             size = 1.0 + fabs(g * u) + fabs(d * u) * 4.0 + fabs(d * g);
                CHECK_MSG(fabs((double)y[i] - want) <= 1e-6 * size, "%s: y %g, not %g",
                          context->kernels->name, (double)y[i], want);
                CHECK_MSG(fabs((double)dgate[i] - want_gate) <= 1e-6 * size, "%s: dgate %g, not %g",
                          context->kernels->name, (double)dgate[i], want_gate);
                CHECK_MSG(fabs((double)dup[i] - want_up) <= 1e-6 * size, "%s: dup %g, not %g",
                          context->kernels->name, (double)dup[i], want_up);
            }
            drop(gate); drop(up); drop(dy); drop(y); drop(dgate); drop(dup);
        }
        llm_context_free(context);
    }
}

/* the formulas of arXiv:2309.00071 sec. 3, as DeepSeek's code has them */
static double rope_plain_frequency(const llm_config *c, int pair) {
    const double d = (double)c->qk_rope_head_dim, pi = 3.14159265358979323846;
    const double inverse = pow((double)c->rope_theta, -2.0 * pair / d);
    double low, high, ramp;
    if (c->yarn_factor == 0.0f) return inverse;
    low = floor(d * log(c->yarn_original_max_seq_len / ((double)c->yarn_beta_fast * 2.0 * pi)) /
                (2.0 * log((double)c->rope_theta)));
    high = ceil(d * log(c->yarn_original_max_seq_len / ((double)c->yarn_beta_slow * 2.0 * pi)) /
                (2.0 * log((double)c->rope_theta)));
    low = low > 0.0 ? low : 0.0;
    high = high < d - 1.0 ? high : d - 1.0;
    ramp = (pair - low) / (high == low ? 0.001 : high - low);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return inverse * (1.0 - ramp) + inverse / (double)c->yarn_factor * ramp;
}

TEST(rope_values_and_adjoint) {
    int kind;
    for (kind = 0; kind < 6; kind++) {
        llm_context *context = context_at(kind % 3 == 0          ? 0
                                          : kernels_at(kind % 3) ? kind % 3
                                                                 : 0,
                                          2);
        enum { rows = 12, T = 6, heads = 3, width = 10, n = rows * heads * width };
        float *x = noise(n, 1.0, 1), *y = floats(n), *dy = noise(n, 1.0, 2), *dx = filled(n, 0.0f);
        int32_t positions[rows];
        double inner = 0.0, adjoint = 0.0, scale = 1.0;
        llm_config c;
        llm_error err;
        int r, h, i;
        memset(&c, 0, sizeof c);
        c.qk_rope_head_dim = width;
        c.rope_half_split = kind % 2;
        c.rope_theta = kind < 4 ? 10000.0f : 500.0f;
        if (kind >= 2) {
            set_yarn(&c, 8.0f, 64, 32.0f, 1.0f, kind == 3 ? 0.7f : 0.0f,
                     kind == 3 ? 1.3f : kind == 4 ? 1.0f : 0.0f);
            scale = kind == 3 ? (0.07 * log(8.0) + 1.0) / (0.13 * log(8.0) + 1.0)
                              : 0.1 * log(8.0) + 1.0;
        }
        for (r = 0; r < rows; r++) positions[r] = kind < 3 ? r % T : 37 * r + 5;
        CHECK(llm_rope_forward(context, y, x, kind < 3 ? NULL : positions, &c, rows, T, heads,
                               &err) == LLM_OK);
        CHECK(llm_rope_backward(context, dx, dy, kind < 3 ? NULL : positions, &c, rows, T, heads,
                                &err) == LLM_OK);
        for (r = 0; r < rows; r++)
            for (h = 0; h < heads; h++)
                for (i = 0; i < width / 2; i++) {
                    const int first = c.rope_half_split ? i : 2 * i,
                              second = c.rope_half_split ? i + width / 2 : 2 * i + 1;
                    const float *from = x + (r * heads + h) * width,
                                *to = y + (r * heads + h) * width;
                    const double angle = positions[r] * rope_plain_frequency(&c, i);
                    const double re = scale * ((double)from[first] * cos(angle) -
                                               (double)from[second] * sin(angle));
                    const double im = scale * ((double)from[second] * cos(angle) +
                                               (double)from[first] * sin(angle));
                    CHECK_MSG(fabs((double)to[first] - re) < 1e-4 &&
                                  fabs((double)to[second] - im) < 1e-4,
                              "kind %d, position %d, pair %d: %g %g, not %g %g", kind,
                              (int)positions[r], i, (double)to[first], (double)to[second], re, im);
                }
        for (i = 0; i < n; i++) {
            inner += (double)y[i] * (double)dy[i];
            adjoint += (double)x[i] * (double)dx[i];
        }
        CHECK_MSG(fabs(inner - adjoint) < 1e-4, "kind %d: <y,dy> %g, <x,dx> %g", kind, inner,
                  adjoint);
        c.qk_rope_head_dim = 7;
        CHECK(llm_rope_forward(context, y, x, NULL, &c, rows, T, heads, &err) == LLM_ERR_ARGUMENT);
        drop(x); drop(y); drop(dy); drop(dx);
        llm_context_free(context);
    }
}

/* ---- parts ----------------------------------------------------------------------------------- */
#define PART_WEIGHTS 96
typedef struct part_case {
    llm_part part;
    llm_config config;
    int B, T;
    llm_context *context;
    size_t n, n_weights, sizes[PART_WEIGHTS];
    float *weights[PART_WEIGHTS], *dweights[PART_WEIGHTS];
    float *x, *h, *dx, *dh, *y, *dy; /* h: of the MTP module, whose x are embeddings */
    void *saved;
    float alpha, balance, loads[16];
} part_case;

static llm_part_args part_case_args(part_case *p) {
    llm_part_args a = part_args(&p->config, p->B, p->T, p->x, (const float *const *)p->weights,
                                p->saved);
    a.h = p->h;
    a.dh = p->dh;
    a.alpha = p->alpha;
    a.loads = p->part == LLM_PART_MOE ? p->loads : NULL;
    a.balance = p->part == LLM_PART_MOE ? &p->balance : NULL;
    return a;
}
static llm_result part_forward(part_case *p, llm_error *err) {
    const llm_part_args a = part_case_args(p);
    return llm_part_forward(p->context, p->part, p->y, &a, err);
}
static llm_result part_backward(part_case *p, llm_error *err) {
    const llm_part_args a = part_case_args(p);
    return llm_part_backward(p->context, p->part, p->dx, p->dweights, p->dy, &a, err);
}
/* sum(y dy) [+ alpha balance] */
static double part_value(part_case *p) {
    double sum = 0.0;
    size_t i;
    CHECK(part_forward(p, NULL) == LLM_OK);
    for (i = 0; i < p->n; i++) sum += (double)p->y[i] * (double)p->dy[i];
    return sum + (p->part == LLM_PART_MOE ? (double)p->alpha * (double)p->balance : 0.0);
}
/* Moves values along a direction: the change must be what the gradient says. Along the gradient it
 * is its length; a gradient that lacks some of its elements has the right length, too, and is found
 * out along any other direction. */
static void part_slope(part_case *p, float *values, const float *gradient, const float *direction,
                       size_t n, const char *what) {
    float *kept = copied(values, n);
    double length = 0.0, want = 0.0, size = 0.0, ends[2];
    const double step = 4e-3;
    size_t i;
    int side;
    for (i = 0; i < n; i++) {
        length += (double)direction[i] * (double)direction[i];
        want += (double)gradient[i] * (double)direction[i];
        size += (double)gradient[i] * (double)gradient[i];
    }
    length = sqrt(length);
    size = sqrt(size);
    want /= length;
    CHECK_MSG(size > 1e-6, "%s: no gradient", what);
    for (side = 0; side < 2; side++) {
        for (i = 0; i < n; i++)
            values[i] = kept[i] + (float)((side ? -step : step) * (double)direction[i] / length);
        ends[side] = part_value(p);
    }
    memcpy(values, kept, n * sizeof *kept);
    CHECK_MSG(fabs((ends[0] - ends[1]) / (2.0 * step) - want) <= 0.005 * size + 2e-3,
              "part %d, %s: slope %g, gradient %g of %g", (int)p->part, what,
              (ends[0] - ends[1]) / (2.0 * step), want, size);
    drop(kept);
}
static void part_check(part_case *p, float *values, const float *gradient, size_t n,
                       const char *what) {
    float *direction = noise(n, 1.0, 77);
    part_slope(p, values, gradient, gradient, n, what);
    part_slope(p, values, gradient, direction, n, what);
    drop(direction);
}

static void part_run(llm_part part, const llm_config *config, int table) {
    part_case p;
    llm_error err;
    char name[72];
    size_t i, j;
    memset(&p, 0, sizeof p);
    p.part = part;
    p.config = *config;
    p.B = 2; p.T = 7;
    p.n = (size_t)(p.B * p.T * config->d_model);
    p.context = context_at(table, 1 + table % 2);
    p.alpha = part == LLM_PART_MOE ? 0.3f : 0.0f;
    p.x = noise(p.n, 1.0, 21); p.h = noise(p.n, 1.0, 22); p.dy = noise(p.n, 1.0, 23);
    p.y = floats(p.n); p.dx = filled(p.n, 0.0f); p.dh = filled(p.n, 0.0f);
    p.saved = plain_alloc(llm_part_saved_bytes(part, config, p.B, p.T));
    for (i = 0; i < PART_WEIGHTS; i++) {
        const llm_tensor tensor = llm_part_tensor(part, config, i, name);
        if (tensor.n_dims == 0) break;
        p.sizes[i] = (size_t)(tensor.dims[0] * (tensor.n_dims > 1 ? tensor.dims[1] : 1));
        p.weights[i] = noise(p.sizes[i], tensor.n_dims > 1 ? 0.25 : 0.1, 30 + i);
        p.dweights[i] = filled(p.sizes[i], 0.0f);
        if (tensor.n_dims == 1 && !strstr(name, "bias"))
            for (j = 0; j < p.sizes[i]; j++) p.weights[i][j] += 1.0f;
        if (strstr(name, "e_score"))               /* far apart: a step changes no choice */
            for (j = 0; j < p.sizes[i]; j++) p.weights[i][j] = 3.0f * (float)((5 * j) % p.sizes[i]);
    }
    p.n_weights = i;
    CHECK_MSG(i > 0 && i < PART_WEIGHTS, "%lu weights", (unsigned long)i);
    err.message[0] = 0;
    CHECK_MSG(part_forward(&p, &err) == LLM_OK && part_backward(&p, &err) == LLM_OK, "%s",
              err.message);
    part_check(&p, p.x, p.dx, p.n, "x");
    if (part == LLM_PART_MTP_MODULE) part_check(&p, p.h, p.dh, p.n, "h");
    for (i = 0; i < p.n_weights; i++) {
        int used = 0;
        (void)llm_part_tensor(part, config, i, name);
        for (j = 0; j < p.sizes[i]; j++) used |= p.dweights[i][j] != 0.0f;
        if (!strstr(name, "e_score") && (used || !strstr(name, "experts.")))
            part_check(&p, p.weights[i], p.dweights[i], p.sizes[i], name);
    }
    {                                  /* adds: a second backward doubles */
        const float once = p.dx[3];
        CHECK(part_forward(&p, NULL) == LLM_OK && part_backward(&p, NULL) == LLM_OK);
        CHECK(fabs((double)p.dx[3] - 2.0 * (double)once) <= 1e-6 * fabs((double)once));
    }
    for (i = 0; i < p.n_weights; i++) { drop(p.weights[i]); drop(p.dweights[i]); }
    drop(p.x); drop(p.h); drop(p.dy); drop(p.y); drop(p.dx); drop(p.dh);
    free(p.saved);
    llm_context_free(p.context);
}

TEST(parts_gradients) {
    int t, kind;
    for (t = 0; kernels_at(t); t++)
        for (kind = 0; kind < 2; kind++) {
            const llm_config dense = part_config(0, kind), sparse = part_config(1, kind);
            llm_config bare = sparse, second = sparse;     /* bare of shared experts */
            bare.n_shared_experts = 0;
            bare.norm_topk_prob = kind;
            part_run(LLM_PART_MOE, &bare, t);
            second.norm_topk_prob = 0;         /* DeepSeek-V2's router */
            second.scoring_func = LLM_SCORING_SOFTMAX;
            second.topk_group = 1 + kind;
            part_run(kind ? LLM_PART_DEEPSEEK_BLOCK : LLM_PART_MOE, &second, t);
            part_run(kind ? LLM_PART_MTP_MODULE : LLM_PART_DEEPSEEK_BLOCK, &bare, t);
            part_run(LLM_PART_MLA, &dense, t);
            part_run(LLM_PART_MOE, &sparse, t);
            part_run(LLM_PART_DEEPSEEK_BLOCK, kind ? &sparse : &dense, t);
            part_run(LLM_PART_MTP_MODULE, kind ? &dense : &sparse, t);
            if (kind) part_run(LLM_PART_GPT2_BLOCK, &dense, t);
        }
}

/* y (C) += weight FFN(x), by the formula at >>moe; w: gate, up (F,C) and down (C,F) */
static void plain_ffn(double *y, const float *x, const float *const *w, int C, int F,
                      double weight) {
    int f, i;
    for (f = 0; f < F; f++) {
        double gate = 0.0, up = 0.0;
        for (i = 0; i < C; i++) {
            gate += (double)w[0][f * C + i] * (double)x[i];
            up += (double)w[1][f * C + i] * (double)x[i];
        }
        for (i = 0; i < C; i++)
            y[i] += weight * (double)w[2][i * F + f] * gate / (1.0 + exp(-gate)) * up;
    }
}

/* with and without shared experts; the router's choices are those of the test below */
TEST(moe_against_a_plain_one) {
    enum { B = 2, T = 9, rows = B * T, E = 6, K = 2, C = 24, F = 9 };
    int kind, t, r, k;
    for (kind = 0; kind < 4; kind++)
        for (t = 0; kernels_at(t); t++) {
            llm_context *context = context_at(t, 2);
            llm_config c = part_config(1, 0);
            float *x = noise(rows * C, 1.0, 3), *y = floats(rows * C), *scores = floats(rows * E);
            float *weights[32], *weight = floats(rows * K);
            double *want = doubles(rows * C);
            int32_t choice[rows * K];
            void *saved;
            size_t n = 0;
            const float *const *w = (const float *const *)weights;
            llm_part_args args;
            c.n_shared_experts = kind % 2 ? 2 : 0;
            c.norm_topk_prob = kind / 2;
            for (n = 0; llm_part_tensor(LLM_PART_MOE, &c, n, NULL).n_dims; n++) {
                const llm_tensor tensor = llm_part_tensor(LLM_PART_MOE, &c, n, NULL);
                weights[n] = noise(tensor_size(&tensor), 0.3, 50 + n);
            }
            CHECK(n == (size_t)(2 + 3 * E + (kind % 2 ? 3 : 0)));
            saved = plain_alloc(llm_part_saved_bytes(LLM_PART_MOE, &c, B, T));
            CHECK(llm_router_forward(context, weight, choice, NULL, scores, x, w[0], w[1], &c, rows,
                                     NULL) == LLM_OK);
            args = part_args(&c, B, T, x, w, saved);
            CHECK(llm_part_forward(context, LLM_PART_MOE, y, &args, NULL) == LLM_OK);
            for (r = 0; r < rows; r++) {
                for (k = 0; k < K; k++)
                    plain_ffn(want + r * C, x + r * C, w + 2 + 3 * choice[r * K + k], C, F,
                              (double)weight[r * K + k]);
                if (kind % 2) plain_ffn(want + r * C, x + r * C, w + 2 + 3 * E, C, 2 * F, 1.0);
            }
            CHECK_CLOSE(y, want, rows * C, 1e-5 * largest(want, rows * C), 0.0,
                        kind % 2 ? "with shared experts" : "without");
            while (n--) drop(weights[n]);
            drop(x); drop(y); drop(scores); drop(weight);
            free(want);
            free(saved);
            llm_context_free(context);
        }
}

/* mean over sequences of sum_i f_i P_i: V3's f counts the K largest unbiased scores (report eq.
 * 18), V2's what was chosen (2405.04434 eq. 24), here within one of two groups */
TEST(moe_balance_by_the_formula) {
    enum { B = 2, T = 9, rows = B * T, E = 6, K = 2, C = 24 };
    int softmax, differ = 0;
    for (softmax = 0; softmax < 2; softmax++) {
        llm_context *context = llm_context_create(2, NULL, NULL);
        llm_config c = part_config(1, 0);
        float *x = noise(rows * C, 1.0, 3), *y = floats(rows * C), *scores = floats(rows * E);
        float *weights[32], *weight = floats(rows * K), balance = -1.0f;
        int32_t choice[rows * K];
        double want = 0.0;
        llm_part_args args;
        void *saved;
        size_t n;
        int b, t, k, e, j;
        c.scoring_func = softmax ? LLM_SCORING_SOFTMAX : LLM_SCORING_SIGMOID;
        c.norm_topk_prob = !softmax;
        for (n = 0; llm_part_tensor(LLM_PART_MOE, &c, n, NULL).n_dims; n++) {
            const llm_tensor tensor = llm_part_tensor(LLM_PART_MOE, &c, n, NULL);
            weights[n] = noise(tensor_size(&tensor), 0.3, 50 + n);
        }
        saved = plain_alloc(llm_part_saved_bytes(LLM_PART_MOE, &c, B, T));
        args = part_args(&c, B, T, x, (const float *const *)weights, saved);
        args.balance = &balance;
        CHECK(llm_part_forward(context, LLM_PART_MOE, y, &args, NULL) == LLM_OK);
        CHECK(llm_router_forward(context, weight, choice, NULL, scores, x, weights[0],
                                 softmax ? NULL : weights[1], &c, rows, NULL) == LLM_OK);
        for (b = 0; b < B; b++) {
            double f[E] = {0}, p[E] = {0};
            for (t = b * T; t < (b + 1) * T; t++) {
                const float *s = scores + t * E;
                double sum = 0.0;
                for (e = 0; e < E; e++) sum += (double)s[e];
                for (e = 0; e < E; e++) {
                    int above = 0, chosen = 0;
                    for (j = 0; j < E; j++) above += s[j] > s[e];
                    for (k = 0; k < K; k++) chosen |= choice[t * K + k] == e;
                    differ += chosen != (above < K);
                    f[e] += (softmax ? chosen : above < K) * (double)E / (K * T);
                    p[e] += (double)s[e] / sum / T;
                }
            }
            for (e = 0; e < E; e++) want += f[e] * p[e] / B;
        }
        CHECK_MSG(fabs((double)balance - want) < 1e-5, "balance %g, not %g", (double)balance, want);
        while (n--) drop(weights[n]);
        drop(x); drop(y); drop(scores); drop(weight);
        free(saved);
        llm_context_free(context);
    }
    CHECK(differ > 10);
}

/* scores so small that they are 0: no weight, no gradient, nothing that is no number */
TEST(moe_scores_of_0) {
    enum { B = 1, T = 5, E = 6, K = 2, C = 24 };
    llm_context *context = llm_context_create(1, NULL, NULL);
    int all;
    for (all = 0; all < 2; all++) {    /* all experts, or all but one, whose bias is low */
        llm_config c = part_config(1, 0);
        float *x = filled(T * C, 1.0f), *y = floats(T * C), *dx = filled(T * C, 0.0f);
        float *weights[32], *dweights[32], *scores = floats(T * E), *weight = floats(T * K);
        float *dy = noise(T * C, 1.0, 4), balance = -1.0f;
        int32_t choice[T * K];
        size_t n, i;
        void *saved;
        const float *const *w = (const float *const *)weights;
        llm_part_args args;
        c.n_group = c.topk_group = 1;
        c.n_shared_experts = 0;
        for (n = 0; llm_part_tensor(LLM_PART_MOE, &c, n, NULL).n_dims; n++) {
            const llm_tensor tensor = llm_part_tensor(LLM_PART_MOE, &c, n, NULL);
            weights[n] = noise(tensor_size(&tensor), 0.3, 50 + n);
            dweights[n] = filled(tensor_size(&tensor), 0.0f);
        }
        for (i = 0; i < E * C; i++) weights[0][i] = i >= C || all ? -30.0f : 0.1f;
        for (i = 0; i < E; i++) weights[1][i] = i == 0 ? -5.0f : 0.1f * (float)i;
        saved = plain_alloc(llm_part_saved_bytes(LLM_PART_MOE, &c, B, T));
        CHECK(llm_router_forward(context, weight, choice, NULL, scores, x, w[0], w[1], &c, T,
                                 NULL) == LLM_OK);
        for (i = 0; i < T * K; i++)
            CHECK(weight[i] == 0.0f && choice[i] == (i % K ? 4 : 5) && scores[choice[i]] == 0.0f);
        args = part_args(&c, B, T, x, w, saved);
        args.balance = &balance;
        CHECK(llm_part_forward(context, LLM_PART_MOE, y, &args, NULL) == LLM_OK);
        CHECK(llm_part_backward(context, LLM_PART_MOE, dx, dweights, dy, &args, NULL) == LLM_OK);
        for (i = 0; i < T * C; i++) CHECK(y[i] == 0.0f && dx[i] == 0.0f);
        for (i = 0; i < E * C; i++) CHECK(dweights[0][i] == 0.0f);
        /* f: 3 for expert 0 and for the lowest other; P: 1 and 0, or 0 where all scores are */
        CHECK_MSG(fabs((double)balance - (all ? 0.0 : 3.0)) < 1e-5, "balance %g", (double)balance);
        args.alpha = 0.3f;
        CHECK(llm_part_backward(context, LLM_PART_MOE, dx, dweights, dy, &args, NULL) == LLM_OK);
        for (i = 0; i < T * C; i++) CHECK(isfinite(dx[i]));
        for (i = 0; i < E * C; i++) CHECK(isfinite(dweights[0][i]));
        while (n--) { drop(weights[n]); drop(dweights[n]); }
        drop(x); drop(y); drop(dx); drop(dy); drop(scores); drop(weight);
        free(saved);
    }
    llm_context_free(context);
}

TEST(parts_refuse) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_config c = part_config(1, 0);
    float *x = noise(24 * 4, 1.0, 1), *y = floats(24 * 4);
    const float *weights[64];
    llm_error err;
    llm_part_args args;
    int i;
    char saved[65536];
    for (i = 0; i < 64; i++) weights[i] = i == 2 ? NULL : x;
    args = part_args(&c, 1, 4, x, weights, saved);
#define MOE_REFUSED(...) \
    REFUSED(LLM_ERR_ARGUMENT, llm_part_forward(context, LLM_PART_MOE, y, &args, &err), __VA_ARGS__)
    MOE_REFUSED("weight 2");
    args.x = NULL;
    MOE_REFUSED("x");
    args.x = x;
    args.B = 0;
    MOE_REFUSED("B 0");
    args.B = 1;
    c.num_experts_per_tok = 5;
    MOE_REFUSED("num_experts_per_tok 5");
#undef MOE_REFUSED
    REFUSED(LLM_ERR_ARGUMENT, llm_part_forward(context, LLM_PART_MOE, y, NULL, &err), "NULL");
    CHECK(llm_part_saved_bytes(LLM_PART_MOE, &c, 1, 4) == 0);
    CHECK(llm_part_tensor(LLM_PART_MOE, &c, 0, NULL).n_dims == 0);
    c.num_experts_per_tok = 2;
    CHECK(llm_part_tensor(LLM_PART_MOE, &c, 1000, NULL).n_dims == 0);
    drop(x); drop(y);
    llm_context_free(context);
}

/* ---- the router ------------------------------------------------------------------------------ */
static void router_plain(llm_scoring scoring) {
    enum { E = 12, G = 4, K = 3, C = 10, rows = 50 };
    const int softmax = scoring == LLM_SCORING_SOFTMAX;
    llm_context *context = llm_context_create(2, NULL, NULL);
    float *x = noise(rows * C, 1.0, 1), *gate = noise(E * C, 0.5, softmax ? 4 : 2);
    float *bias = softmax ? filled(E, 0.0f) : noise(E, 0.6, 3);
    float *weight = floats(rows * K), *scores = floats(rows * E), loads[E];
    int32_t *choice = (int32_t *)plain_alloc(rows * K * sizeof *choice);
    double plain_loads[E] = {0};
    llm_config c;
    llm_error err;
    int r, e, g, k, i;
    for (e = 0; e < E && !softmax; e++) bias[e] -= 1.5f;   /* all negative: a mask of 0 would win */
    memset(&c, 0, sizeof c);
    c.d_model = C; c.n_routed_experts = E; c.num_experts_per_tok = K; c.moe_d_ffn = 1;
    c.n_group = G; c.topk_group = 2; c.norm_topk_prob = !softmax; c.routed_scaling_factor = 1.7f;
    c.scoring_func = scoring;
    if (!softmax)
        REFUSED(LLM_ERR_ARGUMENT, llm_router_forward(context, weight, choice, loads, scores, x,
                                                     gate, NULL, &c, rows, &err), "bias");
    CHECK(llm_router_forward(context, weight, choice, loads, scores, x, gate,
                             softmax ? NULL : bias, &c, rows, &err) == LLM_OK);
    for (r = 0; r < rows; r++) {
        double s[E], group[G], sum = 0.0, total = 0.0;
        int chosen[K], keep[G] = {0};
        for (e = 0; e < E; e++) {
            double dot = 0.0;
            for (i = 0; i < C; i++) dot += (double)x[r * C + i] * (double)gate[e * C + i];
            s[e] = softmax ? exp(dot) : 1.0 / (1.0 + exp(-dot));
            total += s[e];
        }
        for (e = 0; e < E; e++) {
            if (softmax) s[e] /= total;
            CHECK(fabs(s[e] - (double)scores[r * E + e]) < 1e-5);
        }
        for (g = 0; g < G; g++) {                  /* the two best of three; softmax: the best */
            double all[3], least = 1e9, most = 0.0;
            group[g] = 0.0;
            for (i = 0; i < 3; i++) {
                all[i] = s[3 * g + i] + (double)bias[3 * g + i];
                group[g] += all[i];
                if (all[i] < least) least = all[i];
                if (all[i] > most) most = all[i];
            }
            group[g] = softmax ? most : group[g] - least;
        }
        for (i = 0; i < 2; i++) {
            int best = -1;
            for (g = 0; g < G; g++)
                if (!keep[g] && (best < 0 || group[g] > group[best])) best = g;
            keep[best] = 1;
        }
        for (k = 0; k < K; k++) {
            int best = -1, j;
            for (e = 0; e < E; e++) {
                int taken = !keep[e / 3];
                for (j = 0; j < k; j++) taken |= chosen[j] == e;
                if (!taken && (best < 0 || s[e] + (double)bias[e] > s[best] + (double)bias[best]))
                    best = e;
            }
            chosen[k] = best;
            sum += s[best];
            plain_loads[best] += 1.0;
        }
        for (k = 0; k < K; k++) {
            CHECK_MSG(choice[r * K + k] == chosen[k], "row %d: choice %d is %d, not %d", r, k,
                      (int)choice[r * K + k], chosen[k]);
            CHECK(fabs((double)weight[r * K + k] - 1.7 * s[chosen[k]] / (softmax ? 1.0 : sum)) <
                  1e-5);
        }
    }
    for (e = 0; e < E; e++) CHECK((double)loads[e] == plain_loads[e]);
    {                                  /* the gradient along itself, in the gate */
        float *dweight = noise(rows * K, 1.0, 5), *dgate = filled(E * C, 0.0f),
              *dx = filled(rows * C, 0.0f);
        float *kept = floats(E * C), *kept_x = floats(rows * C);
        int32_t *same = (int32_t *)plain_alloc(rows * K * sizeof *same);
        double length = 0.0, length_x = 0.0, ends[4];
        int side, moved = 0;
        CHECK(llm_router_backward(context, dx, dgate, dweight, scores, choice, x, gate, &c, rows,
                                  &err) == LLM_OK);
        memcpy(same, choice, rows * K * sizeof *same);
        for (i = 0; i < 2; i++) {      /* a choice that is no expert */
            char name[16];
            choice[rows * K - 1] = i ? E : -1;
            snprintf(name, sizeof name, "%d", (int)choice[rows * K - 1]);
            REFUSED(LLM_ERR_ARGUMENT,
                    llm_router_backward(context, dx, dgate, dweight, scores, choice, x, gate, &c,
                                        rows, &err),
                    "choice", name);
            choice[rows * K - 1] = same[rows * K - 1];
        }
        memcpy(kept, gate, E * C * sizeof *kept);
        memcpy(kept_x, x, rows * C * sizeof *kept_x);
        for (i = 0; i < E * C; i++) length += (double)dgate[i] * (double)dgate[i];
        for (i = 0; i < rows * C; i++) length_x += (double)dx[i] * (double)dx[i];
        length = sqrt(length);
        length_x = sqrt(length_x);
        for (side = 0; side < 4; side++) {
            const double step = side % 2 ? -1e-3 : 1e-3;
            for (i = 0; i < E * C; i++)
                gate[i] = kept[i] + (float)(side < 2 ? step * (double)dgate[i] / length : 0.0);
            for (i = 0; i < rows * C; i++)
                x[i] = kept_x[i] + (float)(side < 2 ? 0.0 : step * (double)dx[i] / length_x);
            CHECK(llm_router_forward(context, weight, choice, NULL, scores, x, gate, bias, &c, rows,
                                     &err) == LLM_OK);
            for (i = 0, ends[side] = 0.0; i < rows * K; i++) {
                ends[side] += (double)weight[i] * (double)dweight[i];
                moved |= same[i] != choice[i];
            }
        }
        CHECK_MSG(!moved, "a step changed a choice: take other numbers");
        CHECK_MSG(fabs((ends[0] - ends[1]) / 2e-3 - length) < 0.01 * length,
                  "gate: slope %g, gradient %g", (ends[0] - ends[1]) / 2e-3, length);
        CHECK_MSG(fabs((ends[2] - ends[3]) / 2e-3 - length_x) < 0.01 * length_x,
                  "x: slope %g, gradient %g", (ends[2] - ends[3]) / 2e-3, length_x);
        drop(dweight); drop(dgate); drop(dx); drop(kept); drop(kept_x);
        free(same);
    }
    drop(x); drop(gate); drop(bias); drop(weight); drop(scores);
    free(choice);
    llm_context_free(context);
}
TEST(router_against_a_plain_one) {
    router_plain(LLM_SCORING_SIGMOID);
    router_plain(LLM_SCORING_SOFTMAX);
}

/* ---- the MTP loss ---------------------------------------------------------------------------- */
static double plain_mtp_part(const float *logits, const int32_t *targets, int B, int T, int V,
                             int k) {
    double sum = 0.0;
    int b, t, v, n = 0;
    for (b = 0; b < B; b++)
        for (t = 0; t + k < T; t++) {
            const float *x = logits + (b * (T - k) + t) * V;
            const int32_t target = targets[b * T + t + k];
            double total = 0.0;
            if (target == LLM_IGNORE_INDEX) continue;
            for (v = 0; v < V; v++) total += exp((double)x[v]);
            sum += log(total) - (double)x[target];
            n++;
        }
    return n ? sum / n : 0.0;
}

TEST(mtp_loss_by_definition) {
    enum { B = 2, T = 5, V = 11, D = 2 };
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *logits[3], *dlogits[3], *lse[3], loss, parts[3];
    int32_t targets[B * T] = {3, LLM_IGNORE_INDEX, 1, 0, 10, 4, 4, LLM_IGNORE_INDEX, 2, 7};
    const double lambda = 0.4;
    llm_error err;
    double want = 0.0;
    int k, i;
    for (k = 0; k <= D; k++) {
        const size_t n = (size_t)(B * (T - k) * V);
        logits[k] = noise(n, 2.0, 40 + (uint64_t)k);
        dlogits[k] = filled(n, 0.5f);
        lse[k] = floats((size_t)(B * (T - k)));
    }
    CHECK(llm_mtp_loss_forward(context, &loss, parts, lse, (const float *const *)logits, targets, B,
                               T, V, D, (float)lambda, 0.0f, &err) == LLM_OK);
    for (k = 0; k <= D; k++) {
        const double part = plain_mtp_part(logits[k], targets, B, T, V, k);
        CHECK_MSG(fabs(part - (double)parts[k]) < 1e-5, "part %d: %g, not %g", k, (double)parts[k],
                  part);
        want += k ? lambda / D * part : part;
    }
    CHECK(fabs(want - (double)loss) < 1e-5);
    CHECK(llm_mtp_loss_backward(context, dlogits, NULL, (const float *const *)lse,
                                (const float *const *)logits, targets, B, T, V, D, (float)lambda,
                                0.0f, &err) == LLM_OK);
    for (k = 0; k <= D; k++)
        for (i = 0; i < B * (T - k) * V; i += 3) {
            const float kept = logits[k][i];
            double up, down;
            logits[k][i] = kept + 0.01f;
            up = plain_mtp_part(logits[k], targets, B, T, V, k);
            logits[k][i] = kept - 0.01f;
            down = plain_mtp_part(logits[k], targets, B, T, V, k);
            logits[k][i] = kept;
            CHECK_MSG(fabs((up - down) / 0.02 * (k ? lambda / D : 1.0) -
                           ((double)dlogits[k][i] - 0.5)) < 1e-4,
                      "dlogits[%d][%d] is %g", k, i, (double)dlogits[k][i] - 0.5);
        }
    CHECK(llm_mtp_loss_forward(context, &loss, parts, lse, (const float *const *)logits, targets, B,
                               2, V, D, 0.3f, 0.0f, &err) == LLM_ERR_ARGUMENT);
    for (k = 0; k <= D; k++) { drop(logits[k]); drop(dlogits[k]); drop(lse[k]); }
    llm_context_free(context);
}

TEST(mtp_loss_every_allocation_fails) {
    enum { B = 2, T = 5, V = 11, D = 2 };
    float *logits[3], *dlogits[3], *lse[3], loss = -7.0f;
    const int32_t targets[B * T] = {3, 1, 1, 0, 10, 4, 4, 9, 2, 7};
    llm_context *context;
    llm_error err;
    heap h;
    int32_t bad[B * T];
    int k;
    heap_init(&h);
    context = llm_context_create(1, &h.allocator, &err);
    if (!context) return;
    for (k = 0; k <= D; k++) {
        const size_t n = (size_t)(B * (T - k) * V);
        logits[k] = noise(n, 2.0, 40 + (uint64_t)k);
        dlogits[k] = filled(n, 0.5f);
        lse[k] = filled((size_t)(B * (T - k)), 1.0f);
    }
    h.fail_at = h.calls;
    REFUSED(LLM_ERR_MEMORY, llm_mtp_loss_forward(context, &loss, NULL, lse,
                                                 (const float *const *)logits, targets, B, T, V, D,
                                                 0.3f, 0.0f, &err), "targets");
    CHECK(loss == -7.0f && lse[0][0] == 1.0f);
    EACH_ALLOCATION_FAILS(&h, llm_mtp_loss_forward(context, &loss, NULL, lse,
                                                   (const float *const *)logits, targets, B, T, V,
                                                   D, 0.3f, 0.0f, &err));
    EACH_ALLOCATION_FAILS(&h, llm_mtp_loss_backward(context, dlogits, NULL,
                                                    (const float *const *)lse,
                                                    (const float *const *)logits, targets, B, T, V,
                                                    D, 0.3f, 0.0f, &err));
    memcpy(bad, targets, sizeof bad);
    bad[7] = V;
    loss = -7.0f;
    REFUSED(LLM_ERR_ARGUMENT, llm_mtp_loss_forward(context, &loss, NULL, lse,
                                                   (const float *const *)logits, bad, B, T, V, D,
                                                   0.3f, 0.0f, &err), "11", "7");
    REFUSED(LLM_ERR_ARGUMENT, llm_mtp_loss_backward(context, dlogits, NULL,
                                                    (const float *const *)lse,
                                                    (const float *const *)logits, bad, B, T, V, D,
                                                    0.3f, 0.0f, &err), "11", "7");
    CHECK(loss == -7.0f);
    for (k = 0; k <= D; k++) { drop(logits[k]); drop(dlogits[k]); drop(lse[k]); }
    llm_context_free(context);
    CHECK(h.live == 0 && h.wrong == 0);
}

/* ---- speculation ----------------------------------------------------------------------------- */
/* a model that has learned the cycle text[i] = (i mod 60)^2 mod 61, with modules of depth 3 */
static llm_model *cycle_model(int32_t *text, int n, int experts) {
    llm_config c = deepseek_config(experts, 0, 61, 2500, 3);
    llm_model_desc model_desc;
    llm_train_desc d;
    llm_model *model;
    llm_trainer *trainer;
    llm_train_stats stats;
    int step, b, i;
    for (i = 0; i < n; i++) text[i] = (i % 60) * (i % 60) % 61;
    memset(&stats, 0, sizeof stats);
    if (experts) c.routed_scaling_factor = 1.0f;
    memset(&model_desc, 0, sizeof model_desc);
    model_desc.n_threads = 1;          /* too small to share */
    memset(&d, 0, sizeof d);
    d.batch_size = 4; d.seq_len = 24; d.learning_rate = 5e-3f; d.max_steps = 250;
    model = llm_model_create(&c, &model_desc, NULL);
    trainer = model ? llm_trainer_create(model, &d, NULL) : NULL;
    CHECK(trainer);
    for (step = 0; trainer && step < 250; step++) {
        int32_t x[96], y[96];
        for (b = 0; b < 4; b++) {
            const int from = (int)(llm_random(9, (uint64_t)(step * 4 + b)) % (uint64_t)(n - 25));
            for (i = 0; i < 24; i++) {
                x[b * 24 + i] = text[from + i];
                y[b * 24 + i] = text[from + i + 1];
            }
        }
        CHECK(llm_trainer_step(trainer, x, y, &stats, NULL) == LLM_OK);
    }
    CHECK_MSG(trainer && stats.mtp_loss[0] < 0.2f && stats.mtp_loss[2] < 0.2f,
              "the modules' losses are %g and %g", (double)stats.mtp_loss[0],
              (double)stats.mtp_loss[2]);
    llm_trainer_free(trainer);
    return model;
}

/* Each module's draft after `token`, against what the trainer's evaluation says: the module over
 * the whole sequence, without a cache. Then token is evaluated, as drafting wants it. */
static void drafts_check(llm_session *s, llm_trainer *t, int32_t token, const char *what) {
    const size_t C = (size_t)s->model->config.d_model;
    const int length = s->length[0], V = s->model->config.vocab_size;
    const float *head = (const float *)llm_model_tensor(s->model, 0).data; /* the embedding */
    int32_t tokens[160], drafts[LLMI_MTP_MAX];
    float logits[61];
    int k, v, best;
    size_t i;
    memcpy(tokens, s->tokens, (size_t)length * sizeof *tokens);
    tokens[length] = token;
    for (k = 1; k <= s->run.mtp; k++) {
        const float *h = t->h[k] + (size_t)(length - 1) * C;
        double error;
        CHECK(llmi_mtp_draft(s, 0, token, drafts, k) == k);
        CHECK(llm_trainer_evaluate(t, tokens, tokens, 1, length + k, NULL, NULL) == LLM_OK);
        for (v = best = 0; v < V; v++) {
            double sum = 0.0;
            for (i = 0; i < C; i++) sum += (double)head[(size_t)v * C + i] * (double)h[i];
            logits[v] = (float)sum;
            if (logits[v] > logits[best]) best = v;
        }
        error = relative_error(s->sample_logits, logits, (size_t)V);
        CHECK_MSG(error < 2e-5, "%s, %d tokens: module %d differs by %g", what, length, k, error);
        CHECK(drafts[k - 1] == best);
        tokens[length + k] = drafts[k - 1];
    }
    CHECK(llm_session_eval(s, 0, &token, 1, NULL, NULL) == LLM_OK);
}

TEST(drafts_are_the_modules) {
    static const int prompts[] = {1, 2, 5, 15, 16, 17, 40, 90}, back[] = {1, 2, 4, 5},
                     deep[] = {20, 50, 50, 20};
    int experts, i;
    for (experts = 0; experts < 2; experts++) {
        llm_config c = deepseek_config(experts, 1, 61, 150, 3);
        llm_session_desc desc;
        llm_train_desc d = train_desc(1, 150, 1);
        llm_model *model;
        llm_session *s;
        llm_trainer *t;
        int32_t text[150], other[150];
        c.tie_embeddings = 1;
        model = shaken_model(&c, 5, 1, NULL);
        memset(&desc, 0, sizeof desc);
        desc.speculate = 1;
        desc.n_sequences = 2;
        s = model ? llm_session_create(model, &desc, NULL) : NULL;
        t = model ? llm_trainer_create(model, &d, NULL) : NULL;
        CHECK(s && t);
        if (!s || !t) return;
        random_tokens(text, 150, 61, 1);
        random_tokens(other, 150, 61, 2);
        for (i = 0; i < 8; i++) {
            CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
            CHECK(llm_session_eval(s, 0, text, prompts[i], NULL, NULL) == LLM_OK);
            drafts_check(s, t, text[prompts[i]], "a prompt");
        }
        for (i = 0; i < 12; i++) {     /* after the 90: by one to four tokens */
            if (i % 4) CHECK(llm_session_eval(s, 0, other + i, i % 4, NULL, NULL) == LLM_OK);
            drafts_check(s, t, text[i], "some more");
        }
        for (i = 0; i < 4; i++) {      /* rewound into what no module has seen */
            CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
            CHECK(llm_session_eval(s, 0, text, 40, NULL, NULL) == LLM_OK);
            CHECK(llm_session_eval(s, 0, other, 5, NULL, NULL) == LLM_OK);
            CHECK(llm_session_rewind(s, 0, 45 - back[i], NULL) == LLM_OK);
            CHECK(llm_session_eval(s, 0, text + 60, 3, NULL, NULL) == LLM_OK);
            drafts_check(s, t, other[i], "rewound a little");
        }
        for (i = 0; i < 4; i++) {      /* rewound far, and the same tokens again */
            CHECK(llm_session_rewind(s, 0, 0, NULL) == LLM_OK);
            CHECK(llm_session_eval(s, 0, text, 60, NULL, NULL) == LLM_OK);
            if (i % 2) drafts_check(s, t, other[i], "before");
            CHECK(llm_session_rewind(s, 0, deep[i], NULL) == LLM_OK);
            CHECK(llm_session_eval(s, 0, text + deep[i], i < 2 ? 30 : 9, NULL, NULL) == LLM_OK);
            drafts_check(s, t, other[i], "rewound far");
        }
        CHECK(llm_session_eval(s, 1, other, 50, NULL, NULL) == LLM_OK);  /* another sequence */
        drafts_check(s, t, other[7], "beside a longer one");
        CHECK(llm_session_eval(s, 0, other, 6, NULL, NULL) == LLM_OK);
        CHECK(llm_session_eval(s, 1, text, 3, NULL, NULL) == LLM_OK);
        CHECK(llm_session_rewind(s, 1, 10, NULL) == LLM_OK);
        drafts_check(s, t, other[8], "beside one that was rewound");
        llm_trainer_free(t);
        llm_session_free(s);
        llm_model_free(model);
    }
}

/* cancelled while drafts wait: the drafts are forgotten, and what follows is as if without them */
static void speculation_cancelled(llm_session *plain, llm_session *fast, const int32_t *text) {
    llm_session *const sessions[2] = {plain, fast};
    int at, i, accepted = 0;
    for (at = 1; at <= 14; at++) {
        const int prompt = at % 2 ? 5 : 30, from = 7 * at;
        int32_t tokens[2][80];
        llm_generate_stats stats[2];
        llm_error err;
        for (i = 0; i < 2; i++) {
            llm_generate_desc d;
            heard h;
            memset(&d, 0, sizeof d);
            memset(&h, 0, sizeof h);
            h.cancel_at = at;
            d.speculate = i;
            d.on_token = on_token;
            d.user = &h;
            CHECK(llm_session_rewind(sessions[i], 0, 0, NULL) == LLM_OK);
            REFUSED(LLM_ERR_CANCELLED, llm_generate(sessions[i], text + from, prompt, &d, tokens[i],
                                                    80, &stats[i], &err), "cancelled");
            CHECK(stats[i].n_generated == at);
            CHECK_MSG(llm_session_length(sessions[i], 0) == prompt + at - 1,
                      "cancelled at %d: %d tokens are kept", at,
                      llm_session_length(sessions[i], 0));
            d.on_token = NULL;
            d.max_new_tokens = 12;
            CHECK(llm_generate(sessions[i], tokens[i] + at - 1, 1, &d, tokens[i] + at, 80 - at,
                               NULL, NULL) == LLM_OK);
        }
        accepted += stats[1].n_accepted;
        CHECK_MSG(!memcmp(tokens[0], tokens[1], (size_t)(at + 12) * sizeof(int32_t)),
                  "cancelled at %d: other tokens follow", at);
    }
    CHECK_MSG(accepted > 30, "%d drafts accepted", accepted);
}

TEST(speculation_changes_nothing) {
    enum { N = 1500, LONG = 2500 };
    int32_t *text = (int32_t *)plain_alloc(LONG * sizeof *text);
    int experts, i;
    for (experts = 0; experts < 2; experts++) {
        llm_model *model = cycle_model(text, N, experts);
        llm_session_desc desc;
        llm_session *plain, *fast;
        for (i = N; i < LONG; i++) text[i] = text[i - 60];
        memset(&desc, 0, sizeof desc);
        plain = llm_session_create(model, &desc, NULL);
        desc.speculate = 1;
        fast = llm_session_create(model, &desc, NULL);
        CHECK(plain && fast);
        CHECK(llm_session_cache_bytes(plain) == (size_t)(2 * 2500 * (13 + 4) * 4));
        CHECK(llm_session_cache_bytes(fast) == (size_t)(5 * 2500 * (13 + 4) * 4));
        for (i = 0; i < 17; i++) {
            static const int long_prompts[3] = {1100, 1600, 2400};     /* run in pieces */
            int32_t one[80], two[80];
            llm_generate_desc d;
            llm_generate_stats a, b;
            const int prompt = i >= 14 ? long_prompts[i - 14] : i == 5 ? 520 : i % 4 == 1 ? 30 : 5;
            const int stop[] = {9};
            const int from = i < 4 ? 7 * i + 30 : 3 * i; /* within what it has learned, then not */
            int32_t stops[1];
            stops[0] = stop[0];
            memset(&d, 0, sizeof d);
            d.max_new_tokens = i < 4 ? 18 : i % 3 == 0 ? 2 : 60;
            d.sampling.temperature = i >= 4 && i % 2 ? 0.8f : 0.0f;
            d.sampling.seed = (uint64_t)i;
            d.sampling.repetition_penalty = i % 4 == 3 && i > 4 ? 1.2f : 0.0f;
            if (i == 8) { d.stop_tokens = stops; d.n_stop_tokens = 1; }
            if (i < 4 || i == 5 || i == 7 || i >= 14) {
                const int length = i == 7 ? 100 : 0;
                CHECK(llm_session_rewind(plain, 0, length, NULL) == LLM_OK);
                CHECK(llm_session_rewind(fast, 0, length, NULL) == LLM_OK);
            }
            if (i == 9) {              /* a token that the modules have not seen */
                CHECK(llm_session_eval_batch(plain, text + 5, NULL, NULL) == LLM_OK);
                CHECK(llm_session_eval_batch(fast, text + 5, NULL, NULL) == LLM_OK);
            }
            CHECK(llm_generate(plain, text + from, prompt, &d, one, 80, &a, NULL) == LLM_OK);
            d.speculate = 1;
            CHECK(llm_generate(fast, text + from, prompt, &d, two, 80, &b, NULL) == LLM_OK);
            CHECK_MSG(a.n_generated == b.n_generated &&
                          memcmp(one, two, (size_t)a.n_generated * sizeof *one) == 0,
                      "experts %d, generation %d differs", experts, i);
            CHECK(llm_session_length(plain, 0) == llm_session_length(fast, 0));
            CHECK(b.n_accepted <= b.n_drafted && a.n_drafted == 0);
            if (i < 4)
                CHECK_MSG(b.n_accepted >= 11 && b.n_accepted >= b.n_drafted - 2,
                          "%d of %d drafts accepted", b.n_accepted, b.n_drafted);
        }
        CHECK(llm_session_rewind(fast, 0, 1000, NULL) == LLM_OK);
        for (i = 0; i < 80; i++)
            CHECK(llm_session_eval(fast, 0, text + i, 1, NULL, NULL) == LLM_OK);
        speculation_cancelled(plain, fast, text);
        llm_session_free(plain);
        llm_session_free(fast);
        llm_model_free(model);
    }
    free(text);
}

/* drafts must not bend the law: frequencies of the third sampled token over many seeds */
TEST(speculation_keeps_the_law) {
    enum { N = 300, DRAWS = 3000 };
    int32_t *text = (int32_t *)plain_alloc(N * sizeof *text);
    llm_model *model = cycle_model(text, N, 0);
    llm_session_desc desc;
    llm_session *sessions[2];
    double counts[2][61], distance = 0.0;
    int s, i, v;
    memset(counts, 0, sizeof counts);
    memset(&desc, 0, sizeof desc);
    for (s = 0; s < 2; s++) {
        desc.speculate = s;
        sessions[s] = llm_session_create(model, &desc, NULL);
        for (i = 0; i < DRAWS; i++) {
            llm_generate_desc d;
            int32_t out[4];
            memset(&d, 0, sizeof d);
            d.max_new_tokens = 4;
            d.speculate = s;
            d.sampling.temperature = 1.5f;
            d.sampling.seed = (uint64_t)(s * DRAWS + i);   /* other numbers: a law, not a copy */
            CHECK(llm_session_rewind(sessions[s], 0, 0, NULL) == LLM_OK);
            CHECK(llm_generate(sessions[s], text + 11, 3, &d, out, 4, NULL, NULL) == LLM_OK);
            counts[s][out[2]] += 1.0;
        }
        llm_session_free(sessions[s]);
    }
    for (v = 0; v < 61; v++) { /* two samples of one law: chi-square, 60 degrees */
        const double sum = counts[0][v] + counts[1][v], difference = counts[0][v] - counts[1][v];
        if (sum > 0.0) distance += difference * difference / sum;
    }
    CHECK_MSG(distance < 110.0, "chi-square is %g", distance);     /* p < 1e-4 */
    llm_model_free(model);
    free(text);
}

/* ---- presets: counts from the paper's model card and the design ------------------------------ */
TEST(deepseek_presets) {
    static const struct { const char *name; double millions; int C, L, H; } dense[] = {
        {"deepseek-small", 30, 512, 6, 8}, {"deepseek-base", 70, 768, 12, 12},
        {"deepseek-large", 180, 1024, 24, 16}, {"deepseek-xl", 700, 2048, 24, 32}};
    llm_config c;
    int i;
    for (i = 0; i < 4; i++) {
        double count;
        CHECK(llm_config_preset(&c, dense[i].name, NULL) == LLM_OK &&
              llm_config_validate(&c, NULL) == LLM_OK);
        count = (double)llm_config_param_count(&c) / 1e6;
        CHECK_MSG(fabs(count / dense[i].millions - 1.0) < 0.1, "%s: %g million", dense[i].name,
                  count);
        CHECK(c.d_model == dense[i].C && c.n_layers == dense[i].L && c.n_heads == dense[i].H &&
              c.n_routed_experts == 0);
        CHECK(c.tie_embeddings && llm_config_active_param_count(&c) == llm_config_param_count(&c));
    }
    CHECK(llm_config_cache_bytes(&c, 1, LLM_F32) * 32 <= (size_t)(2 * 4 * 24 * 2048)); /* c: xl */
    CHECK(llm_config_preset(&c, "deepseek-moe-150m", NULL) == LLM_OK);
    CHECK(c.n_routed_experts == 16 && c.num_experts_per_tok == 2 && c.n_shared_experts == 1);
    CHECK(fabs((double)llm_config_param_count(&c) / 150e6 - 1.0) < 0.1);
    CHECK(llm_config_preset(&c, "deepseek-v3", NULL) == LLM_OK);
    CHECK(llm_config_param_count(&c) == 671026404352u + 14848u);
    CHECK(llm_config_mtp_param_count(&c) == 11610067968u + 256u);
    CHECK(llm_config_active_param_count(&c) == 37552282624u);
    CHECK(llm_config_cache_bytes(&c, 1, LLM_F32) == (size_t)(576 * 61 * 4));
}

static void run_parts(void) {
    RUN(swiglu_values_and_gradients);
    RUN(rope_values_and_adjoint);
    RUN(parts_gradients);
    RUN(moe_against_a_plain_one);
    RUN(moe_balance_by_the_formula);
    RUN(moe_scores_of_0);
    RUN(parts_refuse);
    RUN(router_against_a_plain_one);
    RUN(mtp_loss_by_definition);
    RUN(mtp_loss_every_allocation_fails);
    RUN(drafts_are_the_modules);
    RUN(speculation_changes_nothing);
    RUN(speculation_keeps_the_law);
    RUN(deepseek_presets);
}
