/* Attention against a naive oracle in double precision, which has the whole T x T matrix, and
 * whose gradients are checked against central differences. */

/* ---- the oracle ------------------------------------------------------------------------------ */
/* q, k (B,T,H,qk), v, out, dout (B,T,H,vd), lse (B,H,T); keep (B,H,T,T): what dropout multiplies
 * a probability by, 0 or 1/(1-p), NULL = 1. loss = sum of dout out. */
typedef struct attention_case {
    int B, T, H, qk, vd;
    double scale, *q, *k, *v, *dout, *out, *lse, *dq, *dk, *dv;
    const double *keep;
} attention_case;

/* the probabilities (T) of one query, and the logarithm of their denominator */
static double attention_row(const attention_case *c, int b, int h, int t, double *p) {
    const double *q = c->q + ((size_t)(b * c->T + t) * (size_t)c->H + (size_t)h) * (size_t)c->qk;
    double most = -HUGE_VAL, sum = 0.0;
    int j, i;
    for (j = 0; j <= t; j++) {
        const double *k =
            c->k + ((size_t)(b * c->T + j) * (size_t)c->H + (size_t)h) * (size_t)c->qk;
        p[j] = 0.0;
        for (i = 0; i < c->qk; i++) p[j] += q[i] * k[i];
        p[j] *= c->scale;
        most = fmax(most, p[j]);
    }
    for (j = 0; j <= t; j++) sum += p[j] = exp(p[j] - most);
    for (j = 0; j <= t; j++) p[j] /= sum;
    return most + log(sum);
}
static double attention_loss(void *argument) {
    const attention_case *c = (const attention_case *)argument;
    double *p = doubles((size_t)c->T), loss = 0.0;
    int b, h, t, j, i;
    for (b = 0; b < c->B; b++)
        for (h = 0; h < c->H; h++)
            for (t = 0; t < c->T; t++) {
                const size_t row = (size_t)(b * c->H + h) * (size_t)c->T + (size_t)t;
                const size_t at =
                    ((size_t)(b * c->T + t) * (size_t)c->H + (size_t)h) * (size_t)c->vd;
                c->lse[row] = attention_row(c, b, h, t, p);
                for (i = 0; i < c->vd; i++) c->out[at + (size_t)i] = 0.0;
                for (j = 0; j <= t; j++) {
                    const double *v =
                        c->v + ((size_t)(b * c->T + j) * (size_t)c->H + (size_t)h) * (size_t)c->vd;
                    const double w =
                        p[j] * (c->keep ? c->keep[row * (size_t)c->T + (size_t)j] : 1.0);
                    for (i = 0; i < c->vd; i++) c->out[at + (size_t)i] += w * v[i];
                }
                for (i = 0; i < c->vd; i++)
                    loss += c->dout[at + (size_t)i] * c->out[at + (size_t)i];
            }
    free(p);
    return loss;
}
/* with w = p keep: dv += w dout; dw = dout v; dp = dw keep; ds = p (dp - sum p dp); dq += scale
 * ds k, dk += scale ds q */
static void attention_gradients(const attention_case *c) {
    double *p = doubles((size_t)c->T), *dp = doubles((size_t)c->T);
    int b, h, t, j, i;
    for (b = 0; b < c->B; b++)
        for (h = 0; h < c->H; h++)
            for (t = 0; t < c->T; t++) {
                const size_t row = (size_t)(b * c->H + h) * (size_t)c->T + (size_t)t;
                const size_t at = (size_t)(b * c->T + t) * (size_t)c->H + (size_t)h;
                const double *dout = c->dout + at * (size_t)c->vd, *q = c->q + at * (size_t)c->qk;
                double *dq = c->dq + at * (size_t)c->qk, sum = 0.0;
                attention_row(c, b, h, t, p);
                for (j = 0; j <= t; j++) {
                    const size_t key =
                        ((size_t)(b * c->T + j) * (size_t)c->H + (size_t)h) * (size_t)c->vd;
                    const double keep = c->keep ? c->keep[row * (size_t)c->T + (size_t)j] : 1.0;
                    dp[j] = 0.0;
                    for (i = 0; i < c->vd; i++) {
                        dp[j] += keep * dout[i] * c->v[key + (size_t)i];
                        c->dv[key + (size_t)i] += keep * p[j] * dout[i];
                    }
                    sum += p[j] * dp[j];
                }
                for (j = 0; j <= t; j++) {
                    const size_t key =
                        ((size_t)(b * c->T + j) * (size_t)c->H + (size_t)h) * (size_t)c->qk;
                    const double ds = c->scale * p[j] * (dp[j] - sum);
                    for (i = 0; i < c->qk; i++) {
                        dq[i] += ds * c->k[key + (size_t)i];
                        c->dk[key + (size_t)i] += ds * q[i];
                    }
                }
            }
    free(p);
    free(dp);
}

/* ---- a case in floats, with strides ---------------------------------------------------------- */
typedef struct attention_buffers {
    llm_attention_dims d;
    size_t rows, nq, nv, no, nl;       /* positions; floats of q or k, v, out, lse */
    float *q, *k, *v, *dout;           /* strided; dout (rows, H vd) */
    attention_case c;
} attention_buffers;

static double *packed(const float *x, size_t rows, size_t width, size_t stride) {
    double *y = doubles(rows * width);
    size_t r, i;
    for (r = 0; r < rows; r++)
        for (i = 0; i < width; i++) y[r * width + i] = (double)x[r * stride + i];
    return y;
}
static size_t strided_size(size_t rows, size_t width, size_t stride) {
    return rows ? (rows - 1) * stride + width : 0;
}

/* pad: floats between positions */
static attention_buffers attention_open(int B, int T, int H, int qk, int vd, size_t pad,
                                        double size, uint64_t seed) {
    attention_buffers a;
    const size_t wq = (size_t)(H * qk), wv = (size_t)(H * vd);
    size_t i;
    memset(&a, 0, sizeof a);
    a.rows = (size_t)(B * T);
    a.d.B = B; a.d.T = T; a.d.n_heads = H; a.d.qk_head_dim = qk;
    a.d.v_head_dim = vd == qk ? 0 : vd;            /* 0: the same */
    a.d.q_stride = pad ? wq + pad : 0;             /* 0: without a gap */
    a.d.k_stride = pad ? wq + 2 * pad : 0;
    a.d.v_stride = pad ? wv + pad + 1 : 0;
    a.nq = strided_size(a.rows, wq, wq + 2 * pad);
    a.nv = strided_size(a.rows, wv, wv + (pad ? pad + 1 : 0));
    a.no = a.rows * wv;
    a.nl = a.rows * (size_t)H;
    a.q = floats(strided_size(a.rows, wq, wq + pad));
    a.k = floats(a.nq);
    a.v = floats(a.nv);
    a.dout = noise(a.no, 1.0, seed + 3);
    for (i = 0; i < a.rows; i++) {
        float *q = noise(wq, size, seed + 10 + 3 * i), *k = noise(wq, size, seed + 11 + 3 * i);
        float *v = noise(wv, 1.0, seed + 12 + 3 * i);
        memcpy(a.q + i * (wq + pad), q, wq * sizeof(float));
        memcpy(a.k + i * (wq + 2 * pad), k, wq * sizeof(float));
        memcpy(a.v + i * (wv + (pad ? pad + 1 : 0)), v, wv * sizeof(float));
        drop(q); drop(k); drop(v);
    }
    a.c.B = B; a.c.T = T; a.c.H = H; a.c.qk = qk; a.c.vd = vd;
    a.c.scale = 1.0 / sqrt((double)qk);
    a.c.q = packed(a.q, a.rows, wq, wq + pad);
    a.c.k = packed(a.k, a.rows, wq, wq + 2 * pad);
    a.c.v = packed(a.v, a.rows, wv, wv + (pad ? pad + 1 : 0));
    a.c.dout = widened(a.dout, a.no);
    a.c.out = doubles(a.no); a.c.lse = doubles(a.nl);
    a.c.dq = doubles(a.rows * wq); a.c.dk = doubles(a.rows * wq); a.c.dv = doubles(a.rows * wv);
    return a;
}
static void attention_close(attention_buffers *a) {
    drop(a->q); drop(a->k); drop(a->v); drop(a->dout);
    free(a->c.q); free(a->c.k); free(a->c.v); free(a->c.dout); free(a->c.out); free(a->c.lse);
    free(a->c.dq); free(a->c.dk); free(a->c.dv);
}

/* a strided gradient that held `before` everywhere but in its gaps */
static float *gradient_before(size_t rows, size_t width, size_t stride, float before) {
    float *x = floats(strided_size(rows, width, stride));
    size_t r, i;
    for (r = 0; r < rows; r++)
        for (i = 0; i < width; i++) x[r * stride + i] = before;
    return x;
}
static void check_gradient(const float *got, const double *want, size_t rows, size_t width,
                           size_t stride, double before, double tolerance, const char *label,
                           const char *name) {
    const double size = 1.0 + largest(want, rows * width);
    double worst = 0.0;
    size_t r, i;
    int gaps = 1;
    for (r = 0; r < rows; r++) {
        for (i = 0; i < width; i++) {
            const double e = fabs((double)got[r * stride + i] - before - want[r * width + i]);
            worst = e <= worst ? worst : e;        /* NaN, too */
        }
        if (r + 1 < rows) gaps = gaps && unwritten(got + r * stride + width, stride - width);
    }
    CHECK_MSG(worst <= tolerance * (size + before), "%s: %s is off by %g, the largest is %g", label,
              name, worst, size);
    CHECK_MSG(gaps, "%s: wrote between positions of %s", label, name);
}

/* forward and backward on one table, against what a->c holds; tolerance: of errors against the
 * largest value */
static void attention_check(const attention_buffers *a, int table, int n_threads,
                            double tolerance) {
    const attention_case *c = &a->c;
    const size_t wq = (size_t)(c->H * c->qk), wv = (size_t)(c->H * c->vd);
    const size_t sq = a->d.q_stride ? a->d.q_stride : wq, sk = a->d.k_stride ? a->d.k_stride : wq;
    const size_t sv = a->d.v_stride ? a->d.v_stride : wv;
    llm_context *context = context_at(table, n_threads);
    float *out = floats(a->no), *lse = floats(a->nl), *again = floats(a->no);
    float *dq = gradient_before(a->rows, wq, sq, 0.5f),
          *dk = gradient_before(a->rows, wq, sk, 0.25f);
    float *dv = gradient_before(a->rows, wv, sv, 2.0f);
    llm_error err;
    char label[160];
    snprintf(label, sizeof label, "%s, B %d, T %d, H %d, dims %d and %d, scale %g, dropout %g",
             context->kernels->name, c->B, c->T, c->H, c->qk, c->vd, c->scale,
             (double)a->d.dropout);
    err.message[0] = 0;
    CHECK_MSG(llm_attention_forward(context, out, lse, a->q, a->k, a->v, &a->d, &err) == LLM_OK,
              "%s: %s", label, err.message);
    CHECK_CLOSE(out, c->out, a->no, tolerance * (0.1 + largest(c->out, a->no)), 0.0, label);
    CHECK_CLOSE(lse, c->lse, a->nl, tolerance * (1.0 + largest(c->lse, a->nl)), 0.0, label);
    CHECK(llm_attention_forward(context, again, NULL, a->q, a->k, a->v, &a->d, &err) == LLM_OK);
    CHECK_MSG(same_bits(out, again, a->no), "%s: without lse, out differs", label);
    CHECK_MSG(llm_attention_backward(context, dq, dk, dv, a->dout, out, lse, a->q, a->k, a->v,
                                     &a->d, &err) == LLM_OK,
              "%s: %s", label, err.message);
    check_gradient(dq, c->dq, a->rows, wq, sq, 0.5, tolerance, label, "dq");
    check_gradient(dk, c->dk, a->rows, wq, sk, 0.25, tolerance, label, "dk");
    check_gradient(dv, c->dv, a->rows, wv, sv, 2.0, tolerance, label, "dv");
    drop(out); drop(lse); drop(again); drop(dq); drop(dk); drop(dv);
    llm_context_free(context);
}

/* ---- tests ----------------------------------------------------------------------------------- */
TEST(attention_oracle_by_central_differences) {
    attention_buffers a = attention_open(2, 5, 2, 3, 2, 0, 1.0, 1);
    double *keep = doubles(2 * 2 * 5 * 5);
    uint64_t state = 4;
    size_t i;
    int round;
    for (i = 0; i < 100; i++) keep[i] = plain_random(&state) % 3 ? 1.5 : 0.0;
    for (round = 0; round < 2; round++) {
        a.c.keep = round ? keep : NULL;
        a.c.scale = round ? 0.7 : 1.0 / sqrt(3.0);
        for (i = 0; i < 60; i++) a.c.dq[i] = a.c.dk[i] = 0.0;
        for (i = 0; i < 40; i++) a.c.dv[i] = 0.0;
        attention_loss(&a.c);
        attention_gradients(&a.c);
        check_slopes(attention_loss, &a.c, a.c.q, a.c.dq, 60, "attention dq");
        check_slopes(attention_loss, &a.c, a.c.k, a.c.dk, 60, "attention dk");
        check_slopes(attention_loss, &a.c, a.c.v, a.c.dv, 40, "attention dv");
    }
    free(keep);
    attention_close(&a);
}

static const int attention_dims[][2] = {{16, 16}, {1, 1},   {5, 8},   {8, 3}, {24, 16},
                                        {64, 64}, {80, 33}, {16, 80}, {3, 64}};

TEST(attention_against_oracle) {
    static const int lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 257, 300};
    int i, j, t;
    for (i = 0; i < 14; i++)
        for (j = 0; j < 3; j++) {
            const int *dims = attention_dims[(2 * i + 4 * j) % 9], T = lengths[i];
            const int B = T > 150 ? 1 : 1 + (i + j) % 3, H = 1 + (i + 2 * j) % 3;
            attention_buffers a = attention_open(B, T, H, dims[0], dims[1], j == 1 ? 5 : 0, 1.0,
                                                 1000 * (uint64_t)i + 1);
            attention_loss(&a.c);
            attention_gradients(&a.c);
            for (t = 0; kernels_at(t); t++) attention_check(&a, t, 1, 5e-6);
            attention_close(&a);
        }
}

/* the scale that is given, small and large: with large scores one probability of a row is nearly
 * 1 */
TEST(attention_scales) {
    static const float scales[] = {1.0f, 0.01f, 0.37f, 3.0f};
    int i, t;
    for (i = 0; i < 4; i++) {
        attention_buffers a = attention_open(1, 90, 2, 24, 10, 0, 1.0, 50 + (uint64_t)i);
        a.d.scale = scales[i];
        a.c.scale = (double)scales[i];
        attention_loss(&a.c);
        attention_gradients(&a.c);
        for (t = 0; kernels_at(t); t++) attention_check(&a, t, 1, i == 3 ? 3e-5 : 5e-6);
        attention_close(&a);
    }
}

/* a fused projection: rows of 3 C, into which the gradients go, too */
TEST(attention_fused_projection) {
    static const int shapes[][4] = {
        {2, 70, 3, 8}, {1, 20, 2, 16}, {3, 65, 1, 5}}; /* B, T, H, dim */
    int s, t;
    for (s = 0; s < 3; s++) {
        const int B = shapes[s][0], T = shapes[s][1], H = shapes[s][2], dim = shapes[s][3];
        attention_buffers a = attention_open(B, T, H, dim, dim, 0, 1.0, 7);
        const size_t C = (size_t)(H * dim);
        float *qkv = floats(a.rows * 3 * C);
        size_t r;
        for (r = 0; r < a.rows; r++) {
            memcpy(qkv + r * 3 * C, a.q + r * C, C * sizeof(float));
            memcpy(qkv + r * 3 * C + C, a.k + r * C, C * sizeof(float));
            memcpy(qkv + r * 3 * C + 2 * C, a.v + r * C, C * sizeof(float));
        }
        a.d.q_stride = a.d.k_stride = a.d.v_stride = 3 * C;
        a.d.v_head_dim = dim;
        attention_loss(&a.c);
        attention_gradients(&a.c);
        for (t = 0; kernels_at(t); t++) {
            llm_context *context = context_at(t, 2);
            float *out = floats(a.no), *lse = floats(a.nl), *d = filled(a.rows * 3 * C, 0.0f),
                  *part = floats(a.rows * C);
            const double *want[3];
            int i;
            CHECK(llm_attention_forward(context, out, lse, qkv, qkv + C, qkv + 2 * C, &a.d, NULL) ==
                  LLM_OK);
            CHECK_CLOSE(out, a.c.out, a.no, 5e-6, 0.0, context->kernels->name);
            CHECK_CLOSE(lse, a.c.lse, a.nl, 5e-6, 0.0, context->kernels->name);
            CHECK(llm_attention_backward(context, d, d + C, d + 2 * C, a.dout, out, lse, qkv,
                                         qkv + C, qkv + 2 * C, &a.d, NULL) == LLM_OK);
            want[0] = a.c.dq; want[1] = a.c.dk; want[2] = a.c.dv;
            for (i = 0; i < 3; i++) {
                for (r = 0; r < a.rows; r++)
                    memcpy(part + r * C, d + r * 3 * C + (size_t)i * C, C * sizeof(float));
                CHECK_CLOSE(part, want[i], a.rows * C, 3e-6 * (1.0 + largest(want[i], a.rows * C)),
                            0.0, context->kernels->name);
            }
            drop(out); drop(lse); drop(d); drop(part);
            llm_context_free(context);
        }
        drop(qkv);
        attention_close(&a);
    }
}

TEST(attention_threads_give_the_same_bits) {
    static const int threads[] = {2, 3, 5};
    static const int shapes[][5] = {
        {1, 257, 1, 16, 16}, {2, 130, 3, 24, 8}, {1, 300, 2, 64, 64}, {5, 17, 2, 8, 8}};
    int s, t, i, j;
    for (s = 0; s < 4; s++) {
        attention_buffers a = attention_open(shapes[s][0], shapes[s][1], shapes[s][2], shapes[s][3],
                                             shapes[s][4], 0, 1.0, 3);
        const size_t wq = (size_t)(shapes[s][2] * shapes[s][3]);
        a.d.dropout = s == 1 ? 0.25f : 0.0f;
        a.d.seed = 77;
        for (t = 0; kernels_at(t); t++) {
            float *first[5] = {NULL, NULL, NULL, NULL, NULL};
            size_t size[5];
            size[0] = a.no; size[1] = a.nl; size[2] = size[3] = a.rows * wq; size[4] = a.no;
            for (i = 0; i < 4; i++) {
                llm_context *context = context_at(t, i ? threads[i - 1] : 1);
                float *r[5];
                for (j = 0; j < 5; j++) r[j] = filled(size[j], 0.125f);
                CHECK(llm_attention_forward(context, r[0], r[1], a.q, a.k, a.v, &a.d, NULL) ==
                      LLM_OK);
                CHECK(llm_attention_backward(context, r[2], r[3], r[4], a.dout, r[0], r[1], a.q,
                                             a.k, a.v, &a.d, NULL) == LLM_OK);
                for (j = 0; j < 5; j++) {
                    if (i == 0) {
                        first[j] = r[j];
                        continue;
                    }
                    CHECK_MSG(same_bits(r[j], first[j], size[j]),
                              "%s, shape %d, result %d: %d threads differ", context->kernels->name,
                              s, j, threads[i - 1]);
                    drop(r[j]);
                }
                llm_context_free(context);
            }
            for (j = 0; j < 5; j++) drop(first[j]);
        }
        attention_close(&a);
    }
}

/* a sequence gives the same bits whatever stands beside it */
TEST(attention_sequences_are_independent) {
    const int B = 3, T = 70, H = 2, dim = 16;
    const size_t one = (size_t)(T * H * dim), rows = (size_t)(T * H);
    int t, b;
    for (t = 0; kernels_at(t); t++) {
        attention_buffers a = attention_open(B, T, H, dim, dim, 0, 1.0, 3);
        llm_context *context = context_at(t, 2);
        float *out = floats(a.no), *lse = floats(a.nl), *dq = filled(a.no, 0.0f),
              *dk = filled(a.no, 0.0f);
        float *dv = filled(a.no, 0.0f);
        CHECK(llm_attention_forward(context, out, lse, a.q, a.k, a.v, &a.d, NULL) == LLM_OK);
        CHECK(llm_attention_backward(context, dq, dk, dv, a.dout, out, lse, a.q, a.k, a.v, &a.d,
                                     NULL) == LLM_OK);
        a.d.B = 1;
        for (b = 0; b < B; b++) {
            const size_t at = (size_t)b * one, at_row = (size_t)b * rows;
            float *out1 = floats(one), *lse1 = floats(rows), *dq1 = filled(one, 0.0f),
                  *dk1 = filled(one, 0.0f);
            float *dv1 = filled(one, 0.0f);
            CHECK(llm_attention_forward(context, out1, lse1, a.q + at, a.k + at, a.v + at, &a.d,
                                        NULL) == LLM_OK);
            CHECK(llm_attention_backward(context, dq1, dk1, dv1, a.dout + at, out1, lse1, a.q + at,
                                         a.k + at, a.v + at, &a.d, NULL) == LLM_OK);
            CHECK_MSG(same_bits(out1, out + at, one) && same_bits(lse1, lse + at_row, rows) &&
                          same_bits(dq1, dq + at, one) && same_bits(dk1, dk + at, one) &&
                          same_bits(dv1, dv + at, one),
                      "%s: sequence %d of %d alone differs", context->kernels->name, b, B);
            drop(out1); drop(lse1); drop(dq1); drop(dk1); drop(dv1);
        }
        drop(out); drop(lse); drop(dq); drop(dk); drop(dv);
        llm_context_free(context);
        attention_close(&a);
    }
}

/* what comes later changes no bit of what comes before; and with no gradient from later on,
 * later gets none */
TEST(attention_is_causal) {
    const int T = 140, H = 2, dim = 8;
    static const int cuts[] = {1, 2, 17, 63, 64, 65, 100, 128, 139};
    const size_t width = (size_t)(H * dim);
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        attention_buffers a = attention_open(1, T, H, dim, dim, 0, 1.0, 3),
                          other = attention_open(1, T, H, dim, dim, 0, 9.0, 4);
        llm_context *context = context_at(t, 1);
        float *out = floats(a.no), *lse = floats(a.nl);
        CHECK(llm_attention_forward(context, out, lse, a.q, a.k, a.v, &a.d, NULL) == LLM_OK);
        for (i = 0; i < 9; i++) {
            const size_t cut = (size_t)cuts[i] * width;
            float *q = copied(a.q, a.no), *k = copied(a.k, a.no), *v = copied(a.v, a.no),
                  *out2 = floats(a.no);
            float *lse2 = floats(a.nl), *dq = filled(a.no, 0.0f), *dk = filled(a.no, 0.0f),
                  *dv = filled(a.no, 0.0f);
            float *dout = copied(a.dout, a.no);
            size_t j;
            int h, same = 1, zero = 1;
            memcpy(q + cut, other.q + cut, (a.no - cut) * sizeof(float));
            memcpy(k + cut, other.k + cut, (a.no - cut) * sizeof(float));
            memcpy(v + cut, other.v + cut, (a.no - cut) * sizeof(float));
            CHECK(llm_attention_forward(context, out2, lse2, q, k, v, &a.d, NULL) == LLM_OK);
            for (h = 0; h < H; h++)
                same = same && same_bits(lse + h * T, lse2 + h * T, (size_t)cuts[i]);
            CHECK_MSG(same && same_bits(out, out2, cut), "%s: positions below %d see what follows",
                      context->kernels->name, cuts[i]);
            CHECK(!same_bits(out + cut, out2 + cut, a.no - cut));
            for (j = cut; j < a.no; j++) dout[j] = 0.0f;
            CHECK(llm_attention_backward(context, dq, dk, dv, dout, out2, lse2, q, k, v, &a.d,
                                         NULL) == LLM_OK);
            for (j = cut; j < a.no; j++)
                zero = zero && dq[j] == 0.0f && dk[j] == 0.0f && dv[j] == 0.0f;
            CHECK_MSG(zero, "%s: positions from %d on get a gradient from before",
                      context->kernels->name, cuts[i]);
            drop(q);
            drop(k);
            drop(v);
            drop(out2);
            drop(lse2);
            drop(dq);
            drop(dk);
            drop(dv);
            drop(dout);
        }
        drop(out); drop(lse);
        llm_context_free(context);
        attention_close(&a);
        attention_close(&other);
    }
}

/* Scores in the thousands and up to 1e8: all of the weight is on the largest one. Key j is j
 * times the first. */
TEST(attention_large_scores) {
    static const double sizes[] = {3.0, 100.0, 600.0};
    const int T = 70, dim = 5;
    int t, s, i;
    for (t = 0; kernels_at(t); t++)
        for (s = 0; s < 3; s++) {
            attention_buffers a = attention_open(1, T, 1, dim, dim, 0, 1.0, 3);
            const double highest = 1.3 * sizes[s] * sizes[s] * (T - 1) * sqrt((double)dim);
            llm_context *context = context_at(t, 1);
            float *out = floats(a.no), *lse = floats(a.nl), *dq = filled(a.no, 0.0f),
                  *dk = filled(a.no, 0.0f);
            float *dv = filled(a.no, 0.0f);
            double *want = widened(a.v, a.no), *want_dv = widened(a.dout, a.no);
            for (i = 0; i < T * dim; i++) {
                a.q[i] = (float)(sizes[s] * 1.3);
                a.k[i] = (float)(sizes[s] * (i / dim));
            }
            CHECK(llm_attention_forward(context, out, lse, a.q, a.k, a.v, &a.d, NULL) == LLM_OK);
            CHECK_CLOSE(out, want, a.no, 1e-5, 0.0, context->kernels->name);
            CHECK_MSG(fabs((double)lse[T - 1] / highest - 1.0) < 1e-6, "%s: lse %g, not %g",
                      context->kernels->name, (double)lse[T - 1], highest);
            CHECK(llm_attention_backward(context, dq, dk, dv, a.dout, out, lse, a.q, a.k, a.v, &a.d,
                                         NULL) == LLM_OK);
            if (s == 0)                /* exp(score - lse), and lse has 24 bits */
                CHECK_CLOSE(dv, want_dv, a.no, highest * 2.5e-7, 0.0, context->kernels->name);
            for (i = 0; i < T * dim; i++)
                CHECK(fabs((double)dq[i]) <= 1e30 && fabs((double)dk[i]) <= 1e30 &&
                      fabs((double)dv[i]) <= 1e30);
            drop(out); drop(lse); drop(dq); drop(dk); drop(dv);
            free(want); free(want_dv);
            llm_context_free(context);
            attention_close(&a);
        }
}

TEST(attention_nan_stays_in_its_sequence) {
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        attention_buffers a = attention_open(3, 20, 2, 8, 8, 0, 1.0, 3);
        llm_context *context = context_at(t, 1);
        float *out = floats(a.no);
        const int one = 20 * 2 * 8;
        int wrong = 0;
        a.q[one + 5 * 16] = NAN;       /* sequence 1, position 5, head 0 */
        CHECK(llm_attention_forward(context, out, NULL, a.q, a.k, a.v, &a.d, NULL) == LLM_OK);
        for (i = 0; i < 3 * one; i++)
            wrong += (out[i] != out[i]) != (i >= one + 5 * 16 && i < one + 5 * 16 + 8);
        CHECK_MSG(!wrong, "%s: a NaN in one query, %d values of out wrong", context->kernels->name,
                  wrong);
        drop(out);
        llm_context_free(context);
        attention_close(&a);
    }
}

/* The mask of dropout is read out of the forward: with v_j = e_j, out_t is row t of the
 * probabilities times the mask. Then, with any other v, forward and backward are those of the
 * oracle with this mask. */
TEST(attention_dropout) {
    static const int shapes[][4] = {
        {2, 70, 2, 16}, {1, 130, 1, 8}, {3, 15, 2, 24}}; /* B, T, H, dim */
    static const float ps[] = {0.1f, 0.5f, 0.8f};
    int s, t;
    for (s = 0; s < 3; s++) {
        const int B = shapes[s][0], T = shapes[s][1], H = shapes[s][2], dim = shapes[s][3];
        const double p = (double)ps[s];
        const size_t pairs = (size_t)(B * H * T * T);
        double *keep = doubles(pairs), *other = doubles(pairs);
        for (t = 0; kernels_at(t); t++) {
            attention_buffers a = attention_open(B, T, H, dim, dim, 0, 1.0, 3);
            llm_context *context = context_at(t, 1);
            const size_t n = a.rows * (size_t)(H * T);
            float *identity = filled(n, 0.0f), *matrix = floats(n);
            double kept = 0.0, count = 0.0, worst = 0.0, agree = 0.0, *row = doubles((size_t)T);
            int b, h, i, j, seed;
            a.d.dropout = ps[s];
            a.d.v_head_dim = T;
            for (b = 0; b < B; b++)
                for (i = 0; i < T; i++)
                    for (h = 0; h < H; h++) identity[((b * T + i) * H + h) * T + i] = 1.0f;
            for (seed = 0; seed < 2; seed++) {
                a.d.seed = 500 + (uint64_t)seed;
                CHECK(llm_attention_forward(context, matrix, NULL, a.q, a.k, identity, &a.d,
                                            NULL) == LLM_OK);
                for (b = 0; b < B; b++)
                    for (h = 0; h < H; h++)
                        for (i = 0; i < T; i++) {
                            attention_row(&a.c, b, h, i, row);
                            for (j = 0; j < T; j++) {
                                const double got = (double)matrix[((b * T + i) * H + h) * T + j];
                                const double factor = got != 0.0 ? 1.0 / (1.0 - p) : 0.0;
                                const double e = fabs(got - (j <= i ? row[j] * factor : 0.0));
                                const size_t at = (size_t)(((b * H + h) * T + i) * T + j);
                                worst = e <= worst ? worst : e;
                                (seed ? other : keep)[at] = factor;
                                if (j > i) continue;
                                if (seed) agree += (factor > 0.0) == (keep[at] > 0.0);
                                else kept += factor > 0.0;
                                count += !seed;
                            }
                        }
            }
            CHECK_MSG(worst < 1e-5, "%s, shape %d: the matrix is off by %g", context->kernels->name,
                      s, worst);
            CHECK_MSG(fabs(kept / count - (1.0 - p)) < 4.0 * sqrt(p * (1.0 - p) / count),
                      "%s, shape %d: %g of %g kept", context->kernels->name, s, kept, count);
            CHECK_MSG(fabs(agree / count - (1.0 - 2.0 * p * (1.0 - p))) < 4.0 * sqrt(0.25 / count),
                      "%s, shape %d: masks of two seeds agree in %g of %g", context->kernels->name,
                      s, agree, count);
            for (i = 0; i < B * H; i++)            /* heads and sequences have masks of their own */
                for (j = 0; j < i; j++) {
                    const double *x = keep + i * T * T, *y = keep + j * T * T;
                    int k, differ = 0;
                    for (k = 0; k < T * T; k++) differ += x[k] != y[k];
                    CHECK_MSG(differ > T / 4, "masks of heads %d and %d differ in %d places", i, j,
                              differ);
                }
            a.d.seed = 500;
            a.d.v_head_dim = 0;
            a.c.keep = keep;
            attention_loss(&a.c);
            attention_gradients(&a.c);
            attention_check(&a, t, t % 2 + 1, 5e-6);
            drop(identity); drop(matrix);
            free(row);
            llm_context_free(context);
            attention_close(&a);
        }
        free(keep);
        free(other);
    }
}

static void attention_refused(llm_context *context, const llm_attention_dims *d, const char *word,
                              const char *word2) {
    float *q = noise(64, 1.0, 1), *out = floats(64), *lse = floats(64), *dq = floats(64);
    llm_error err;
    REFUSED(LLM_ERR_ARGUMENT, llm_attention_forward(context, out, lse, q, q, q, d, &err), word,
            word2);
    REFUSED(LLM_ERR_ARGUMENT, llm_attention_backward(context, dq, dq, dq, q, q, q, q, q, q, d,
            &err), word, word2);
    CHECK(llm_attention_forward(context, out, lse, q, q, q, d, NULL) == LLM_ERR_ARGUMENT);
    CHECK(unwritten(out, 64) && unwritten(lse, 64) && unwritten(dq, 64));
    drop(q); drop(out); drop(lse); drop(dq);
}
TEST(attention_bad_dims) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_attention_dims good, d;
    memset(&good, 0, sizeof good);
    good.B = 1; good.T = 2; good.n_heads = 2; good.qk_head_dim = 4;
    d = good; d.B = -11; attention_refused(context, &d, "-11", "B");
    d = good; d.T = -12; attention_refused(context, &d, "-12", "T");
    d = good; d.n_heads = -13; attention_refused(context, &d, "-13", "n_heads");
    d = good; d.qk_head_dim = -14; attention_refused(context, &d, "-14", "qk_head_dim");
    d = good; d.v_head_dim = -15; attention_refused(context, &d, "-15", "v_head_dim");
    d = good; d.q_stride = 7; attention_refused(context, &d, "7", "stride");
    d = good; d.k_stride = 7; attention_refused(context, &d, "7", "stride");
    d = good; d.v_stride = 7; attention_refused(context, &d, "7", "stride");
    d = good; d.v_head_dim = 9; d.v_stride = 17; attention_refused(context, &d, "17", "stride");
    d = good; d.dropout = 1.0f; attention_refused(context, &d, "dropout 1", NULL);
    d = good; d.dropout = -0.25f; attention_refused(context, &d, "-0.25", "dropout");
    d = good; d.dropout = NAN; attention_refused(context, &d, "nan", "dropout");
    d = good; d.scale = NAN; attention_refused(context, &d, "nan", "scale");
    d = good; d.scale = INFINITY; attention_refused(context, &d, "inf", "scale");
    attention_refused(context, NULL, "dims", "NULL");
    attention_refused(NULL, &good, "NULL", NULL);
    llm_context_free(context);
}
TEST(attention_null_arrays) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    llm_attention_dims d;
    float *x[9], *y = filled(16, 1.0f);
    int i, j;
    memset(&d, 0, sizeof d);
    d.B = 1; d.T = 2; d.n_heads = 2; d.qk_head_dim = 4;
    for (i = 0; i < 9; i++) {          /* one of them is NULL; only lse of the forward may be */
        for (j = 0; j < 9; j++) x[j] = i == j ? NULL : y;
        CHECK(llm_attention_backward(context, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8],
                                     &d, NULL) == LLM_ERR_ARGUMENT);
        if (i < 4)
            CHECK(llm_attention_forward(context, x[0], y, x[1], x[2], x[3], &d, NULL) ==
                  LLM_ERR_ARGUMENT);
    }
    for (i = 0; i < 16; i++) CHECK(y[i] == 1.0f);
    drop(y);
    llm_context_free(context);
}
TEST(attention_with_nothing_to_do) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    int i;
    for (i = 0; i < 4; i++) {
        float *q = noise(64, 1.0, 1), *out = floats(64);
        llm_attention_dims d;
        memset(&d, 0, sizeof d);
        d.B = i != 0; d.T = 2 * (i != 1); d.n_heads = 2 * (i != 2); d.qk_head_dim = 4 * (i != 3);
        CHECK(llm_attention_forward(context, out, out, q, q, q, &d, NULL) == LLM_OK);
        CHECK(llm_attention_backward(context, out, out, out, q, q, q, q, q, q, &d, NULL) == LLM_OK);
        CHECK(unwritten(out, 64));
        drop(q); drop(out);
    }
    llm_context_free(context);
}
TEST(attention_out_of_memory) {
    attention_buffers a = attention_open(1, 100, 2, 16, 16, 0, 1.0, 3);
    float *out = floats(a.no), *lse = floats(a.nl), *d = filled(a.no, 0.0f);
    llm_context *context;
    llm_error err;
    heap h;
    heap_init(&h);
    context = llm_context_create(1, &h.allocator, &err);
    CHECK(context != NULL);
    if (context) {
        h.fail_at = h.calls;
        REFUSED(LLM_ERR_MEMORY, llm_attention_forward(context, out, lse, a.q, a.k, a.v, &a.d, &err),
                "");
        CHECK(unwritten(out, a.no) && unwritten(lse, a.nl));
        CHECK(llm_attention_forward(context, out, lse, a.q, a.k, a.v, &a.d, &err) == LLM_OK);
        h.fail_at = h.calls;           /* the backward may need more, or not */
        if (llm_attention_backward(context, d, d, d, a.dout, out, lse, a.q, a.k, a.v, &a.d, &err) !=
            LLM_OK)
            CHECK(err.code == LLM_ERR_MEMORY && d[0] == 0.0f && d[a.no - 1] == 0.0f);
        llm_context_free(context);
    }
    CHECK(h.live == 0 && h.wrong == 0);
    drop(out); drop(lse); drop(d);
    attention_close(&a);
}

static void run_attention(void) {
    RUN(attention_oracle_by_central_differences);
    RUN(attention_against_oracle);
    RUN(attention_scales);
    RUN(attention_fused_projection);
    RUN(attention_threads_give_the_same_bits);
    RUN(attention_sequences_are_independent);
    RUN(attention_is_causal);
    RUN(attention_large_scores);
    RUN(attention_nan_stays_in_its_sequence);
    RUN(attention_dropout);
    RUN(attention_bad_dims);
    RUN(attention_null_arrays);
    RUN(attention_with_nothing_to_do);
    RUN(attention_out_of_memory);
}
