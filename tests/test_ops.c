/* The ops, each with its backward: against oracles in double precision on every table of
 * kernels, the oracles' own gradients against central differences; borders, aliasing, what is
 * added to, what is skipped, extreme values, threads. */

static const int op_threads[] = {2, 3, 5};

/* widths around the vector of a table, and what layers have */
#define N_WIDTHS 11
static size_t op_width(const llm_context *context, int i) {
    const size_t w = context->kernels->w;
    const size_t widths[N_WIDTHS] = {1, 2, w > 1 ? w - 1 : 3, w, w + 1, 2 * w, 2 * w + 3, 127, 129,
                                     300, 768};
    return widths[i];
}
/* what an op with one input works on, and what its oracle says */
typedef struct op_case { size_t n; float *x, *dy, *y, *dx; double *want, *want_d; } op_case;

static op_case op_open(size_t n, double deviation, uint64_t seed) {
    op_case c;
    c.n = n;
    c.x = noise(n, deviation, seed);
    c.dy = noise(n, 1.0, 2);
    c.y = floats(n);
    c.dx = filled(n, 0.5f);
    c.want = doubles(n);
    c.want_d = doubles(n);
    return c;
}
/* after the op has been run in place, on x */
static void op_close(op_case *c, const char *label) {
    CHECK_MSG(same_bits(c->x, c->y, c->n), "%s: in place, the result differs", label);
    drop(c->x); drop(c->dy); drop(c->y); drop(c->dx);
    free(c->want); free(c->want_d);
}

/* ---- embedding ------------------------------------------------------------------------------- */
TEST_OF_TABLES(embedding_against_oracle, context, 1) {
    static const int rows[] = {1, 2, 8, 9, 50};
    int i, j;
    for (i = 0; i < N_WIDTHS; i++)
        for (j = 0; j < 5; j++) {
            const size_t width = op_width(context, i), n = (size_t)rows[j], vocab = 13;
            const int columns = (int)width;
            float *weight = noise(vocab * width, 1.0, 1), *dweight = filled(vocab * width, 0.25f);
            float *dy = noise(n * width, 1.0, 2), *y = floats(n * width);
            double *want = doubles(n * width), *want_d = doubles(vocab * width);
            int32_t tokens[50];
            uint64_t state = 3;
            size_t r, c;
            char label[96];
            llm_error err;
            for (c = 0; c < vocab * width; c++) want_d[c] = 0.25;
            for (r = 0; r < n; r++) {
                tokens[r] = r == 0 ? 12 : r == 1 ? 0 : (int32_t)(plain_random(&state) % 13);
                for (c = 0; c < width; c++) {
                    want[r * width + c] = (double)weight[(size_t)tokens[r] * width + c];
                    want_d[(size_t)tokens[r] * width + c] += (double)dy[r * width + c];
                }
            }
            snprintf(label, sizeof label, "%s, %d rows of %d", context->kernels->name, rows[j],
                     columns);
            CHECK(llm_embedding_forward(context, y, tokens, weight, rows[j], 13, columns, &err) ==
                  LLM_OK);
            CHECK_CLOSE(y, want, n * width, 0.0, 0.0, label);
            CHECK(llm_embedding_backward(context, dweight, dy, tokens, rows[j], 13, columns,
                                         &err) == LLM_OK);
            CHECK_CLOSE(dweight, want_d, vocab * width, 5e-6, 0.0, label);
            drop(weight); drop(dy); drop(y); drop(dweight);
            free(want); free(want_d);
        }
}

TEST(embedding_refuses_bad_tokens) {
    static const int32_t bad[] = {-1, 7, 8, LLM_IGNORE_INDEX, INT32_MAX, INT32_MIN};
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *weight = noise(7 * 3, 1.0, 1), *y = floats(4 * 3), *dweight = filled(7 * 3, 1.0f);
    llm_error err;
    int i, at;
    for (i = 0; i < 6; i++)
        for (at = 0; at < 4; at++) {
            int32_t tokens[4] = {0, 6, 3, 1};
            char value[32];
            tokens[at] = bad[i];
            snprintf(value, sizeof value, "%ld", (long)bad[i]);
            REFUSED(LLM_ERR_ARGUMENT, llm_embedding_forward(context, y, tokens, weight, 4, 7, 3,
                    &err), value, "7");
            CHECK(unwritten(y, 4 * 3));
            REFUSED(LLM_ERR_ARGUMENT, llm_embedding_backward(context, dweight, weight, tokens, 4, 7,
                    3, &err), value, "7");
            CHECK(dweight[0] == 1.0f && dweight[20] == 1.0f && dweight[9] == 1.0f);
            CHECK(llm_embedding_forward(context, y, tokens, weight, 4, 7, 3, NULL) ==
                  LLM_ERR_ARGUMENT);
        }
    drop(weight); drop(y); drop(dweight);
    llm_context_free(context);
}
TEST(embedding_bad_dims_and_nothing_to_do) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    const int32_t tokens[2] = {0, 1};
    float *weight = noise(6, 1.0, 1), *y = floats(6);
    llm_error err;
    REFUSED(LLM_ERR_ARGUMENT, llm_embedding_forward(context, y, tokens, weight, -2, 2, 3, &err),
            "-2");
    REFUSED(LLM_ERR_ARGUMENT, llm_embedding_forward(context, y, tokens, weight, 2, -5, 3, &err),
            "-5");
    REFUSED(LLM_ERR_ARGUMENT, llm_embedding_backward(context, y, weight, tokens, 2, 2, -3, &err),
            "-3");
    CHECK(llm_embedding_forward(NULL, y, tokens, weight, 2, 2, 3, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_embedding_forward(context, NULL, tokens, weight, 2, 2, 3, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_embedding_forward(context, y, NULL, weight, 2, 2, 3, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_embedding_forward(context, y, tokens, NULL, 2, 2, 3, &err) == LLM_ERR_ARGUMENT);
    CHECK(llm_embedding_forward(context, y, tokens, weight, 0, 2, 3, &err) == LLM_OK);
    CHECK(llm_embedding_forward(context, y, tokens, weight, 2, 2, 0, &err) == LLM_OK);
    CHECK(llm_embedding_backward(context, y, weight, tokens, 0, 2, 3, &err) == LLM_OK);
    CHECK(llm_embedding_backward(context, y, weight, tokens, 2, 2, 0, &err) == LLM_OK);
    CHECK(unwritten(y, 6));
    drop(weight); drop(y);
    llm_context_free(context);
}

/* ---- layernorm and rmsnorm ------------------------------------------------------------------- */
/* One oracle for both: without centering the mean is 0. loss = sum of dy y. */
typedef struct norm_case {
    int rows, width, centered;
    double eps, *x, *w, *b, *dy, *y, *mean, *rstd, *dx, *dw, *db;
} norm_case;

static double norm_loss(void *argument) {
    norm_case *c = (norm_case *)argument;
    double loss = 0.0;
    int r, i;
    for (r = 0; r < c->rows; r++) {
        const double *x = c->x + r * c->width;
        double mean = 0.0, square = 0.0;
        for (i = 0; i < c->width && c->centered; i++) mean += x[i] / c->width;
        for (i = 0; i < c->width; i++) square += (x[i] - mean) * (x[i] - mean) / c->width;
        c->mean[r] = mean;
        c->rstd[r] = 1.0 / sqrt(square + c->eps);
        for (i = 0; i < c->width; i++) {
            const double y = (x[i] - mean) * c->rstd[r] * c->w[i] + (c->centered ? c->b[i] : 0.0);
            c->y[r * c->width + i] = y;
            loss += y * c->dy[r * c->width + i];
        }
    }
    return loss;
}
/* with h = (x - mean) rstd and g = dy w: dx += rstd (g - mean(g) - h mean(g h)), the mean of g
 * where centered */
static void norm_gradients(norm_case *c) {
    int r, i;
    for (r = 0; r < c->rows; r++) {
        const double *x = c->x + r * c->width, *dy = c->dy + r * c->width;
        double mean_g = 0.0, mean_gh = 0.0;
        for (i = 0; i < c->width; i++) {
            const double h = (x[i] - c->mean[r]) * c->rstd[r], g = dy[i] * c->w[i];
            if (c->centered) mean_g += g / c->width;
            mean_gh += g * h / c->width;
            c->dw[i] += dy[i] * h;
            c->db[i] += dy[i];
        }
        for (i = 0; i < c->width; i++) {
            const double h = (x[i] - c->mean[r]) * c->rstd[r];
            c->dx[r * c->width + i] += c->rstd[r] * (dy[i] * c->w[i] - mean_g - h * mean_gh);
        }
    }
}
static void norm_open(norm_case *c, const float *x, const float *w, const float *b, const float *dy,
                      size_t rows, size_t width, int centered, double eps) {
    c->rows = (int)rows; c->width = (int)width; c->centered = centered; c->eps = eps;
    c->x = widened(x, rows * width); c->w = widened(w, width); c->b = widened(b, width);
    c->dy = widened(dy, rows * width);
    c->y = doubles(rows * width);
    c->mean = doubles(rows);
    c->rstd = doubles(rows);
    c->dx = doubles(rows * width); c->dw = doubles(width); c->db = doubles(width);
    norm_loss(c);
    norm_gradients(c);
}
static void norm_close(norm_case *c) {
    free(c->x); free(c->w); free(c->b); free(c->dy); free(c->y); free(c->mean); free(c->rstd);
    free(c->dx); free(c->dw); free(c->db);
}

static void norm_against_oracle(int centered) {
    static const int all_rows[] = {1, 2, 8, 9, 37};
    int t, i, j;
    {                                  /* the oracle itself */
        float *x = noise(15, 1.0, 1), *w = noise(5, 1.0, 2), *b = noise(5, 1.0, 3),
              *dy = noise(15, 1.0, 4);
        norm_case c;
        norm_open(&c, x, w, b, dy, 3, 5, centered, 0.01);
        check_slopes(norm_loss, &c, c.x, c.dx, 15, "norm dx");
        check_slopes(norm_loss, &c, c.w, c.dw, 5, "norm dweight");
        if (centered) check_slopes(norm_loss, &c, c.b, c.db, 5, "norm dbias");
        norm_close(&c);
        drop(x); drop(w); drop(b); drop(dy);
    }
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < N_WIDTHS; i++)
            for (j = 0; j < 5; j++) {
                const size_t rows = (size_t)all_rows[j], width = op_width(context, i);
                const size_t n = rows * width;
                const double eps = j == 1 ? 1e-2 : 1e-5, offset = j == 2 ? 2.0 : 0.0;
                float *x = noise(n, 1.5, 10 + (uint64_t)i), *w = noise(width, 1.0, 20),
                      *b = noise(width, 1.0, 21);
                float *dy = noise(n, 1.0, 22), *y = floats(n), *mean = floats(rows),
                      *rstd = floats(rows);
                float *dx = filled(n, 0.5f), *dw = filled(width, -1.0f), *db = filled(width, 2.0f),
                      *y2 = copied(x, n);
                norm_case c;
                char label[96];
                double largest_rstd;
                size_t k;
                for (k = 0; k < n; k++) x[k] = y2[k] = (float)((double)x[k] + offset);
                norm_open(&c, x, w, b, dy, rows, width, centered, (double)(float)eps);
                for (k = 0; k < n; k++) c.dx[k] += 0.5;
                for (k = 0; k < width; k++) { c.dw[k] += -1.0; c.db[k] += 2.0; }
                largest_rstd = largest(c.rstd, rows);
                snprintf(label, sizeof label, "%s, %d rows of %d", context->kernels->name, c.rows,
                         c.width);
                if (centered) {
                    llm_layernorm_forward(context, y, mean, rstd, x, w, b, c.rows, c.width,
                                          (float)eps);
                    CHECK_CLOSE(mean, c.mean, rows, 2e-6, 0.0, label);
                    llm_layernorm_forward(context, y2, NULL, NULL, y2, w, b, c.rows, c.width,
                                          (float)eps);
                    llm_layernorm_backward(context, dx, dw, db, dy, mean, rstd, x, w, c.rows,
                                           c.width);
                    CHECK_CLOSE(db, c.db, width, 2e-5, 0.0, label);
                } else {
                    llm_rmsnorm_forward(context, y, rstd, x, w, c.rows, c.width, (float)eps);
                    llm_rmsnorm_forward(context, y2, NULL, y2, w, c.rows, c.width, (float)eps);
                    llm_rmsnorm_backward(context, dx, dw, dy, rstd, x, w, c.rows, c.width);
                }
                CHECK_CLOSE(y, c.y, n, 2e-6 * fmax(1.0, largest_rstd), 2e-6, label);
                CHECK_CLOSE(rstd, c.rstd, rows, 0.0, 2e-6 * fmax(1.0, largest_rstd), label);
                CHECK_CLOSE(dx, c.dx, n, 1e-5 * fmax(1.0, largest_rstd * largest_rstd), 1e-5,
                            label);
                CHECK_CLOSE(dw, c.dw, width, 2e-5 * fmax(1.0, largest_rstd), 1e-5, label);
                CHECK_MSG(same_bits(y, y2, n),
                          "%s: in place, or without what is saved, the result differs", label);
                if (centered && j == 0) {      /* without a bias */
                    llm_layernorm_forward(context, y, NULL, NULL, x, w, NULL, c.rows, c.width,
                                          (float)eps);
                    for (k = 0; k < n; k++) c.y[k] -= c.b[k % width];
                    CHECK_CLOSE(y, c.y, n, 2e-6 * fmax(1.0, largest_rstd), 2e-6, label);
                }
                norm_close(&c);
                drop(x); drop(w); drop(b); drop(dy); drop(y); drop(mean); drop(rstd);
                drop(dx); drop(dw); drop(db); drop(y2);
            }
        llm_context_free(context);
    }
}
TEST(layernorm_against_oracle) { norm_against_oracle(1); }
TEST(rmsnorm_against_oracle) { norm_against_oracle(0); }

/* Values far from 0 and close together: E[x^2] - E[x]^2 in floats would lose the variance. A
 * constant row has none. */
TEST(layernorm_of_values_far_from_zero) {
    const int widths[] = {2, 17, 300, 768};
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < 4; i++) {
            const size_t width = (size_t)widths[i], n = 3 * width;
            float *x = noise(n, 1.0, 5), *w = filled(width, 1.0f), *b = filled(width, 0.5f),
                  *y = floats(n);
            float *rstd = floats(3);
            norm_case c;
            size_t k;
            for (k = 0; k < n; k++) x[k] = k < width ? 300.0f : (float)((double)x[k] + 300.0);
            norm_open(&c, x, w, b, x, 3, width, 1, (double)1e-5f);
            llm_layernorm_forward(context, y, NULL, rstd, x, w, b, 3, widths[i], 1e-5f);
            CHECK_CLOSE(y, c.y, width, 0.1, 0.0,
                        "a constant row"); /* the mean's last bit times 1/sqrt(eps) */
            CHECK_CLOSE(y + width, c.y + width, n - width, 1e-3 * fmax(1.0, c.rstd[1] + c.rstd[2]),
                        1e-3, context->kernels->name);
            CHECK_CLOSE(rstd + 1, c.rstd + 1, 2, 0.0, 1e-4 * fmax(1.0, c.rstd[1] + c.rstd[2]),
                        context->kernels->name);
            norm_close(&c);
            drop(x); drop(w); drop(b); drop(y); drop(rstd);
        }
        llm_context_free(context);
    }
}

TEST(norms_skip_what_is_null) {
    const size_t rows = 11, width = 37, n = rows * width;
    float *x = noise(n, 1.0, 1), *w = noise(width, 1.0, 2), *dy = noise(n, 1.0, 3), *y = floats(n);
    float *mean = floats(rows), *rstd = floats(rows), *root = floats(rows);
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *want[5];
    int mask, i;
    llm_layernorm_forward(context, y, mean, rstd, x, w, NULL, 11, 37, 1e-5f);
    llm_rmsnorm_forward(context, y, root, x, w, 11, 37, 1e-5f);
    for (i = 0; i < 5; i++) want[i] = filled(n, 1.0f);
    llm_layernorm_backward(context, want[0], want[1], want[2], dy, mean, rstd, x, w, 11, 37);
    llm_rmsnorm_backward(context, want[3], want[4], dy, root, x, w, 11, 37);
    for (mask = 0; mask < 8; mask++) {
        float *got[5];
        for (i = 0; i < 5; i++) got[i] = filled(n, 1.0f);
        llm_layernorm_backward(context, mask & 1 ? got[0] : NULL, mask & 2 ? got[1] : NULL,
                               mask & 4 ? got[2] : NULL, dy, mean, rstd, x, w, 11, 37);
        llm_rmsnorm_backward(context, mask & 1 ? got[3] : NULL, mask & 2 ? got[4] : NULL, dy, root,
                             x, w, 11, 37);
        for (i = 0; i < 5; i++) {
            const int asked = mask & (i == 0 || i == 3 ? 1 : i == 2 ? 4 : 2);
            CHECK_MSG(!asked || same_bits(got[i], want[i], n), "mask %d, output %d", mask, i);
            drop(got[i]);
        }
    }
    for (i = 0; i < 5; i++) drop(want[i]);
    drop(x); drop(w); drop(dy); drop(y); drop(mean); drop(rstd); drop(root);
    llm_context_free(context);
}

/* ---- gelu ------------------------------------------------------------------------------------ */
static double gelu_value(double x) {
    return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}
static double gelu_slope(double x) {
    const double u = 0.79788456080286535588 * (x + 0.044715 * x * x * x), th = tanh(u);
    return 0.5 * (1.0 + th) +
           0.5 * x * (1.0 - th * th) * 0.79788456080286535588 * (1.0 + 3.0 * 0.044715 * x * x);
}

TEST(gelu_against_oracle) {
    int t, i;
    for (i = -80; i <= 80; i++) {      /* the oracle's slope */
        const double x = 0.1 * i, s = (gelu_value(x + 1e-5) - gelu_value(x - 1e-5)) / 2e-5;
        CHECK_MSG(fabs(s - gelu_slope(x)) < 1e-9, "gelu'(%g) is %g, not %g", x, gelu_slope(x), s);
    }
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < N_WIDTHS + 2; i++) {
            const size_t n = i < N_WIDTHS ? op_width(context, i) : i == N_WIDTHS ? 16385 : 40001;
            op_case c = op_open(n, 3.0, (uint64_t)i);
            char label[64];
            size_t k;
            for (k = 0; k < n; k++) {
                c.want[k] = gelu_value((double)c.x[k]);
                c.want_d[k] = 0.5 + (double)c.dy[k] * gelu_slope((double)c.x[k]);
            }
            snprintf(label, sizeof label, "%s, %d values", context->kernels->name, (int)n);
            llm_gelu_forward(context, c.y, c.x, n);
            CHECK_CLOSE(c.y, c.want, n, 2e-7, 1e-6, label);
            llm_gelu_backward(context, c.dx, c.dy, c.x, n);
            CHECK_CLOSE(c.dx, c.want_d, n, 4e-6, 2e-6, label);
            llm_gelu_forward(context, c.x, c.x, n);
            op_close(&c, label);
        }
        llm_context_free(context);
    }
}

TEST(gelu_of_every_size_of_value) {
    enum { N = 4096 };
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        float *x = floats(N), *y = floats(N), *dx = filled(N, 0.0f), *one = filled(N, 1.0f);
        double *want = doubles(N), *want_d = doubles(N);
        for (i = 0; i < N;
             i++) { /* to +-20 in small steps, and from +-1e-15 to +-1e8 in large ones */
            const double at = (i - N / 2) / (double)(N / 2);
            x[i] = (float)(i % 2 ? 20.0 * at
                                 : (at < 0.0 ? -1.0 : 1.0) * pow(10.0, 23.0 * fabs(at) - 15.0));
            want[i] = gelu_value((double)x[i]);
            want_d[i] = gelu_slope((double)x[i]);
        }
        llm_gelu_forward(context, y, x, N);
        CHECK_CLOSE(y, want, N, 2e-7, 1e-6, context->kernels->name);
        llm_gelu_backward(context, dx, one, x, N);
        CHECK_CLOSE(dx, want_d, N, 4e-6, 0.0, context->kernels->name);
        drop(x); drop(y); drop(dx); drop(one);
        free(want); free(want_d);
        llm_context_free(context);
    }
}
/* the other activations, beside their formulas in double */
static double activation_value(llm_activation f, double x, double *slope) {
    const double phi = 0.5 * erfc(-x / sqrt(2.0)), s = 1.0 / (1.0 + exp(-x));
    if (f == LLM_ACTIVATION_GELU) {
        *slope = phi + x * exp(-0.5 * x * x) / sqrt(2.0 * LLMI_PI);
        return x * phi;
    }
    *slope = f == LLM_ACTIVATION_RELU ? (double)(x > 0.0) : s + x * s * (1.0 - s);
    return f == LLM_ACTIVATION_RELU ? (x > 0.0 ? x : 0.0) : x * s;
}
TEST(activations_of_every_size_of_value) {
    enum { N = 4099 };
    static const llm_activation kinds[] = {LLM_ACTIVATION_GELU, LLM_ACTIVATION_RELU,
                                           LLM_ACTIVATION_SILU};
    static const float ends[] = {0.0f, -0.0f, 1e-30f, -1e-38f, 1e8f, -1e8f, 3e38f, -3e38f};
    int t, i, k;
    for (t = 0; kernels_at(t); t++)
        for (k = 0; k < 3; k++) {
            llm_context *context = context_at(t, 1);
            float *x = floats(N), *y = floats(N), *again = floats(N), *dx = filled(N, 2.0f),
                  *dy = filled(N, 3.0f);
            double *want = doubles(N), *want_d = doubles(N);
            for (i = 0; i < N; i++) {
                x[i] = i < 8 ? ends[i] : 40.0f * ((float)i / N - 0.5f);
                want[i] = activation_value(kinds[k], (double)x[i], &want_d[i]);
                want_d[i] = 2.0 + 3.0 * want_d[i];
            }
            llmi_activate(context, kinds[k], y, x, N);
            CHECK_CLOSE(y, want, N, 3e-7, 3e-7, context->kernels->name);
            llmi_activate_backward(context, kinds[k], dx, again, dy, x, N, 1);
            CHECK_CLOSE(dx, want_d, N, 3e-6, 0.0, context->kernels->name);
            CHECK(same_bits(y, again, N));
            x[7] = NAN;
            llmi_activate(context, kinds[k], y, x, N);
            for (i = 0; i < N; i++) CHECK((y[i] != y[i]) == (i == 7));
            drop(x); drop(y); drop(again); drop(dx); drop(dy);
            free(want); free(want_d);
            llm_context_free(context);
        }
}
TEST(gelu_extremes) {
    static const float xs[] = {100.0f, -100.0f, 1e4f,   -1e4f,   1e30f,   -1e30f,
                               0.0f,   -0.0f,   1e-30f, -1e-38f, INFINITY};
    static const double want[] = {100.0, 0.0, 1e4,     0.0,      (double)1e30f, 0.0,
                                  0.0,   0.0, 0.5e-30, -0.5e-38, HUGE_VAL};
    static const double want_d[] = {1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.0};
    int t, i, j;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < 11; i++) {     /* in a whole vector, and in the rest behind one */
            float *x = filled(35, xs[i]), *y = floats(35), *dx = filled(35, 0.0f),
                  *one = filled(35, 1.0f);
            llm_gelu_forward(context, y, x, 35);
            llm_gelu_backward(context, dx, one, x, 35);
            for (j = 0; j < 35; j++) {
                CHECK_MSG(i == 10 ? (double)y[j] == HUGE_VAL
                                  : fabs((double)y[j] - want[i]) <= 1e-7 + 1e-6 * fabs(want[i]),
                          "%s: gelu(%g) is %g, not %g", context->kernels->name, (double)xs[i],
                          (double)y[j], want[i]);
                if (fabs((double)xs[i]) < 1e5)
                    CHECK_MSG(fabs((double)dx[j] - want_d[i]) <= 1e-6, "%s: gelu'(%g) is %g",
                              context->kernels->name, (double)xs[i], (double)dx[j]);
            }
            drop(x); drop(y); drop(dx); drop(one);
        }
        for (i = 0; i < 35; i++) {     /* a NaN stays alone */
            float *x = noise(35, 1.0, 3), *y = floats(35), *dx = filled(35, 0.0f);
            x[i] = NAN;
            llm_gelu_forward(context, y, x, 35);
            llm_gelu_backward(context, dx, x, x, 35);
            for (j = 0; j < 35; j++)
                CHECK((y[j] != y[j]) == (j == i) && (dx[j] != dx[j]) == (j == i));
            drop(x); drop(y); drop(dx);
        }
        llm_context_free(context);
    }
}

/* where exp would overflow, the gate is closed all the same */
TEST(gelu_far_below_zero) {
    static const float xs[] = {-1e9f, -1e12f, -1e15f, -1e18f};
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        float *lowest = filled(17, -3.4e38f), *y = floats(17);
        llm_gelu_forward(context, y, lowest, 17);
        CHECK_MSG(fabs((double)y[0]) <= 1e-6 && fabs((double)y[16]) <= 1e-6,
                  "%s: gelu(-3.4e38) is %g", context->kernels->name, (double)y[0]);
        for (i = 0; i < 4; i++) {
            float *x = filled(17, xs[i]), *dx = filled(17, 0.0f), *one = filled(17, 1.0f);
            llm_gelu_backward(context, dx, one, x, 17);
            CHECK_MSG(fabs((double)dx[0]) <= 1e-6 && fabs((double)dx[16]) <= 1e-6,
                      "%s: gelu'(%g) is %g", context->kernels->name, (double)xs[i], (double)dx[0]);
            drop(x); drop(dx); drop(one);
        }
        drop(lowest); drop(y);
        llm_context_free(context);
    }
}

/* ---- softmax --------------------------------------------------------------------------------- */
typedef struct softmax_case { int rows, width; double *x, *y, *dy, *dx; } softmax_case;

static double softmax_loss(void *argument) {
    softmax_case *c = (softmax_case *)argument;
    const double *x = c->x, *dy = c->dy;
    double *y = c->y, loss = 0.0;
    int r, i;
    for (r = 0; r < c->rows; r++, x += c->width, y += c->width, dy += c->width) {
        double most = x[0], sum = 0.0;
        for (i = 1; i < c->width; i++) most = fmax(most, x[i]);
        for (i = 0; i < c->width; i++) sum += y[i] = exp(x[i] - most);
        for (i = 0; i < c->width; i++) loss += (y[i] /= sum) * dy[i];
    }
    return loss;
}
static void softmax_gradients(softmax_case *c) {
    int r, i;
    for (r = 0; r < c->rows; r++) {
        const double *y = c->y + r * c->width, *dy = c->dy + r * c->width;
        double sum = 0.0;
        for (i = 0; i < c->width; i++) sum += y[i] * dy[i];
        for (i = 0; i < c->width; i++) c->dx[r * c->width + i] += y[i] * (dy[i] - sum);
    }
}

TEST(softmax_against_oracle) {
    static const int all_rows[] = {1, 8, 9, 31};
    static const double sizes[] = {1.0, 10.0, 100.0, 0.0};
    int t, i, j;
    {
        float *x = noise(15, 1.0, 1), *dy = noise(15, 1.0, 2);
        softmax_case c;
        c.rows = 3; c.width = 5;
        c.x = widened(x, 15); c.y = doubles(15); c.dy = widened(dy, 15); c.dx = doubles(15);
        softmax_loss(&c);
        softmax_gradients(&c);
        check_slopes(softmax_loss, &c, c.x, c.dx, 15, "softmax dx");
        drop(x); drop(dy);
        free(c.x); free(c.y); free(c.dy); free(c.dx);
    }
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i <= N_WIDTHS; i++)
            for (j = 0; j < (i < N_WIDTHS ? 4 : 1); j++) {
                const size_t rows = (size_t)all_rows[j];
                const size_t width = i < N_WIDTHS ? op_width(context, i) : 50257;
                const size_t n = rows * width;
                float *x = noise(n, sizes[j], 1 + (uint64_t)i), *dy = noise(n, 1.0, 2),
                      *y = floats(n), *dx = filled(n, 0.5f);
                softmax_case c;
                char label[96];
                size_t k;
                c.rows = all_rows[j]; c.width = (int)width;
                c.x = widened(x, n); c.y = doubles(n); c.dy = widened(dy, n); c.dx = doubles(n);
                softmax_loss(&c);
                snprintf(label, sizeof label, "%s, %d rows of %d", context->kernels->name, c.rows,
                         c.width);
                llm_softmax_forward(context, y, x, c.rows, c.width);
                /* x - max is rounded once: |x - max| 2^-24, so is exp of it, relatively */
                CHECK_CLOSE(y, c.y, n, 1e-12, 2e-6 + 3e-7 * sizes[j], label);
                softmax_gradients(&c);
                for (k = 0; k < n; k++) c.dx[k] += 0.5;
                llm_softmax_backward(context, dx, dy, y, c.rows, c.width);
                CHECK_CLOSE(dx, c.dx, n, 5e-6, 0.0, label);
                llm_softmax_forward(context, x, x, c.rows, c.width);
                CHECK_MSG(same_bits(x, y, n), "%s: in place, the result differs", label);
                free(c.x); free(c.y); free(c.dy); free(c.dx);
                drop(x); drop(dy); drop(y); drop(dx);
            }
        llm_context_free(context);
    }
}

TEST(softmax_extremes) {
    int t, i, width;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        const char *name = context->kernels->name;
        for (width = 1; width < 40; width++) {
            const size_t n = (size_t)width;
            float *x = noise(n, 1.0, 1), *y = floats(n);
            int wrong = 0;
            double sum = 0.0;
            for (i = 0; i < width; i += 2) x[i] = -INFINITY;       /* masked: exactly 0 */
            x[width - 1] = 0.5f;
            llm_softmax_forward(context, y, x, 1, width);
            for (i = 0; i < width; i++) {
                wrong += i % 2 == 0 && i < width - 1 ? y[i] != 0.0f : !(y[i] > 0.0f);
                sum += (double)y[i];
            }
            CHECK_MSG(!wrong && fabs(sum - 1.0) < 1e-6, "%s, width %d: %d wrong, sum %g", name,
                      width, wrong, sum);
            for (i = 0; i < width; i++) x[i] = i % 2 ? -1e30f : 1e30f;
            llm_softmax_forward(context, y, x, 1, width);
            for (i = 0, wrong = 0; i < width; i++)
                wrong +=
                    i % 2 ? y[i] != 0.0f : !(fabs((double)y[i] * ((width + 1) / 2) - 1.0) < 1e-6);
            CHECK_MSG(!wrong, "%s, width %d of +-1e30: %d wrong", name, width, wrong);
            for (i = 0; i < width; i++) x[i] = -1e30f;
            x[width / 2] = -1e10f;
            llm_softmax_forward(context, y, x, 1, width);
            for (i = 0, wrong = 0; i < width; i++)
                wrong += (double)y[i] != (double)(i == width / 2);
            CHECK_MSG(!wrong, "%s, width %d far below 0: %d wrong", name, width, wrong);
            for (i = 0; i < width; i++) x[i] = 0.25f;
            x[width / 3] = NAN;
            llm_softmax_forward(context, y, x, 1, width);
            for (i = 0, wrong = 0; i < width; i++) wrong += y[i] == y[i];
            CHECK_MSG(!wrong, "%s, width %d with a NaN: %d values are none", name, width, wrong);
            drop(x); drop(y);
        }
        {                              /* a NaN's row is its own */
            float *x = noise(20 * 19, 1.0, 1), *y = floats(20 * 19);
            int wrong = 0;
            x[10 * 19 + 18] = NAN;
            llm_softmax_forward(context, y, x, 20, 19);
            for (i = 0; i < 20 * 19; i++) wrong += (y[i] != y[i]) != (i / 19 == 10);
            CHECK_MSG(!wrong, "%s: %d values", name, wrong);
            drop(x); drop(y);
        }
        llm_context_free(context);
    }
}

/* ---- dropout --------------------------------------------------------------------------------- */
TEST(dropout_against_oracle) {
    static const size_t sizes[] = {1, 7, 17, 1000, 16384, 16385, 50000};
    static const float ps[] = {0.0f, 0.1f, 0.5f, 0.9f, 0.999f};
    llm_context *context = llm_context_create(1, NULL, NULL);
    int i, j;
    for (i = 0; i < 7; i++)
        for (j = 0; j < 5; j++) {
            const size_t n = sizes[i];
            const double p = (double)ps[j];
            op_case c = op_open(n, 1.0, 1);
            double kept = 0.0;
            uint64_t state = 1000 + (uint64_t)j;
            char label[64];
            size_t k;
            for (k = 0; k < n; k++) {  /* number k of the seed: the upper half of its 64 bits */
                const double random = (double)(plain_random(&state) >> 32);
                const double factor = random >= p * 4294967296.0 ? 1.0 / (1.0 - p) : 0.0;
                kept += factor > 0.0;
                c.want[k] = (double)c.x[k] * factor;
                c.want_d[k] = 0.5 + (double)c.dy[k] * factor;
            }
            snprintf(label, sizeof label, "%lu values, p %g", (unsigned long)n, p);
            llm_dropout_forward(context, c.y, c.x, n, ps[j], 1000 + (uint64_t)j);
            CHECK_CLOSE(c.y, c.want, n, 0.0, 1e-6, label);
            llm_dropout_backward(context, c.dx, c.dy, n, ps[j], 1000 + (uint64_t)j);
            CHECK_CLOSE(c.dx, c.want_d, n, 1e-6, 1e-6, label);
            CHECK_MSG(fabs(kept - (1.0 - p) * (double)n) <=
                          1.0 + 4.0 * sqrt(p * (1.0 - p) * (double)n),
                      "%s: %g kept", label, kept);
            llm_dropout_forward(context, c.x, c.x, n, ps[j], 1000 + (uint64_t)j);
            op_close(&c, label);
        }
    llm_context_free(context);
}
TEST(dropout_seeds_and_probabilities) {
    enum { N = 100000 };
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *one = filled(N, 1.0f), *a = floats(N), *b = floats(N);
    int i, j;
    for (j = 1; j < 4;
         j++) { /* masks of neighbouring seeds and of neighbouring elements: independent */
        const double p = 0.25 * j, q = 1.0 - p;
        double both = 0.0, next = 0.0;
        llm_dropout_forward(context, a, one, N, (float)p, 5);
        llm_dropout_forward(context, b, one, N, (float)p, 6);
        for (i = 0; i < N; i++) both += a[i] > 0.0f && b[i] > 0.0f;
        for (i = 1; i < N; i++) next += a[i] > 0.0f && a[i - 1] > 0.0f;
        CHECK_MSG(fabs(both / N - q * q) < 4.0 * sqrt(q * q * (1.0 - q * q) / N),
                  "p %g: %g kept by both seeds", p, both / N);
        CHECK_MSG(fabs(next / N - q * q) < 6.0 * sqrt(q * q * (1.0 - q * q) / N),
                  "p %g: %g neighbours kept", p, next / N);
    }
    drop(one); drop(a); drop(b);
    llm_context_free(context);
}

/* ---- adamw ----------------------------------------------------------------------------------- */
TEST(adamw_against_double) {
    static const double settings[][6] = {/* lr, beta1, beta2, eps, decay, grad_scale */
                                         {0.01, 0.9, 0.95, 1e-8, 0.1, 1.0},
                                         {0.001, 0.9, 0.999, 1e-6, 0.0, 0.25},
                                         {0.1, 0.0, 0.5, 1e-3, 0.5, -2.0}};
    int t, i, j;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i <= N_WIDTHS; i++)
            for (j = 0; j < 3; j++) {
                const size_t n = i < N_WIDTHS ? op_width(context, i) : 16384 + 5;
                const double lr = (double)(float)settings[j][0], b1 = (double)(float)settings[j][1];
                const double b2 = (double)(float)settings[j][2],
                             eps = (double)(float)settings[j][3];
                const double decay = (double)(float)settings[j][4],
                             scale = (double)(float)settings[j][5];
                float *w = noise(n, 1.0, 1), *m = filled(n, 0.0f), *v = filled(n, 0.0f), *before;
                double *ew = widened(w, n), *em = doubles(n), *ev = doubles(n);
                char label[64];
                llm_adamw adamw;
                size_t k;
                int step;
                for (step = 1; step <= 7; step++) {
                    float *grad = noise(n, step == 4 ? 100.0 : 1.0, 10 + (uint64_t)step);
                    if (step == 6) memset(grad, 0, n * sizeof(float));
                    before = copied(grad, n);
                    for (k = 0; k < n; k++) {
                        const double g = scale * (double)grad[k];
                        em[k] = b1 * em[k] + (1.0 - b1) * g;
                        ev[k] = b2 * ev[k] + (1.0 - b2) * g * g;
                        ew[k] -= lr * (em[k] / (1.0 - pow(b1, step)) /
                                           (sqrt(ev[k] / (1.0 - pow(b2, step))) + eps) +
                                       decay * ew[k]);
                    }
                    adamw = adamw_of(step - 1, (float)lr, (float)b1, (float)b2, (float)eps,
                                     (float)decay, (float)scale);
                    llm_adamw_update(context, w, m, v, grad, n, &adamw);
                    CHECK(same_bits(grad, before, n));
                    drop(grad); drop(before);
                }
                snprintf(label, sizeof label, "%s, %lu values, setting %d", context->kernels->name,
                         (unsigned long)n, j);
                CHECK_CLOSE(w, ew, n, 1e-6 + 7.0 * lr * 2e-6, 1e-6, label);
                CHECK_CLOSE(m, em, n, 2e-6 * (1.0 + largest(em, n)), 0.0, label);
                CHECK_CLOSE(v, ev, n, 1e-7, 2e-6, label);
                drop(w); drop(m); drop(v);
                free(ew); free(em); free(ev);
            }
        llm_context_free(context);
    }
}
TEST(adamw_late_and_trivial) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *w = filled(5, 2.0f), *m = filled(5, 0.5f), *v = filled(5, 0.25f), *g = filled(5, 0.5f),
          *zero = filled(5, 0.0f);
    llm_adamw adamw = adamw_of(0, 0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f);
    double want[5];
    int i;
    llm_adamw_update(context, w, m, v, g, 0, &adamw);     /* n = 0 */
    for (i = 0; i < 5; i++) CHECK(w[i] == 2.0f && m[i] == 0.5f && v[i] == 0.25f);
    /* after a million steps there is no correction left: m = 0.5, v = 0.25 stay, w loses lr (1 +
     * decay w) */
    adamw = adamw_of(999999, 0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f);
    llm_adamw_update(context, w, m, v, g, 5, &adamw);
    for (i = 0; i < 5; i++) want[i] = 2.0 - 0.1 * (1.0 + 0.1 * 2.0);
    CHECK_CLOSE(w, want, 5, 0.0, 1e-6, "late");
    for (i = 0; i < 5; i++) m[i] = v[i] = 0.0f;
    /* the first step has the size lr whatever the gradient's, and moves nothing where there is
     * none */
    adamw = adamw_of(0, 0.25f, 0.9f, 0.95f, 1e-12f, 0.0f, 1000.0f);
    llm_adamw_update(context, w, m, v, g, 5, &adamw);
    for (i = 0; i < 5; i++) want[i] -= 0.25;
    CHECK_CLOSE(w, want, 5, 0.0, 1e-6, "first");
    for (i = 0; i < 5; i++) w[i] = 3.0f, m[i] = v[i] = 0.0f;
    adamw = adamw_of(0, 0.25f, 0.9f, 0.95f, 1e-8f, 0.0f, 1.0f);
    llm_adamw_update(context, w, m, v, zero, 5, &adamw);
    for (i = 0; i < 5; i++) CHECK(w[i] == 3.0f && m[i] == 0.0f && v[i] == 0.0f);
    drop(w); drop(m); drop(v); drop(g); drop(zero);
    llm_context_free(context);
}

/* ---- clipping and schedules ------------------------------------------------------------------ */
TEST(clip_against_double) {
    static const size_t sizes[] = {0, 1, 3, 15, 16, 17, 511, 512, 513, 16383, 16385, 100000};
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < 12; i++) {
            const size_t n = sizes[i];
            float *grad = noise(n, 1.0, 1), *before = copied(grad, n);
            double *want = widened(grad, n), norm = 0.0, bound, returned;
            char label[64];
            size_t k;
            for (k = 0; k < n; k++) norm += want[k] * want[k];
            norm = sqrt(norm);
            snprintf(label, sizeof label, "%s, %lu gradients", context->kernels->name,
                     (unsigned long)n);
            returned = (double)llm_clip_grad_norm(context, grad, n, (float)(norm * 1.01 + 1e-5));
            CHECK_MSG(fabs(returned - norm) <= 1e-6 * norm, "%s: norm %g, not %g", label, returned,
                      norm);
            CHECK_MSG(same_bits(grad, before, n), "%s: changed below the bound", label);
            bound = (double)(float)(0.3 * norm + (n == 0));
            returned = (double)llm_clip_grad_norm(context, grad, n, (float)bound);
            CHECK_MSG(fabs(returned - norm) <= 1e-6 * norm, "%s: norm %g, not %g", label, returned,
                      norm);
            for (k = 0; k < n; k++) want[k] *= bound / (norm + 1e-6);
            CHECK_CLOSE(grad, want, n, 1e-12, 1.5e-6, label);
            drop(grad); drop(before);
            free(want);
        }
        llm_context_free(context);
    }
}
TEST(clip_extremes) {
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < 35; i += 2) {
            float *grad = noise(35, 1.0, 1);
            grad[i] = NAN;
            CHECK(llm_clip_grad_norm(context, grad, 35, 1.0f) !=
                  llm_clip_grad_norm(context, grad, 35, 1.0f));
            grad[i] = INFINITY;
            CHECK((double)llm_clip_grad_norm(context, grad, 35, 1.0f) == HUGE_VAL);
            drop(grad);
        }
        {                              /* tiny norms stay: the factor's 1e-6 keeps it finite */
            float *grad = filled(16, 1e-12f), *zero = filled(16, 0.0f);
            CHECK(fabs((double)llm_clip_grad_norm(context, grad, 16, 1.0f) / 4e-12 - 1.0) < 1e-5);
            CHECK(grad[0] == 1e-12f && grad[15] == 1e-12f);
            CHECK(llm_clip_grad_norm(context, zero, 16, 1.0f) == 0.0f && zero[3] == 0.0f);
            grad[0] = 3.0f; grad[15] = 4.0f;           /* LLM_OFF: the norm only */
            CHECK(llm_clip_grad_norm(context, grad, 16, LLM_OFF) == 5.0f);
            CHECK(grad[0] == 3.0f && grad[15] == 4.0f);
            drop(grad); drop(zero);
        }
        llm_context_free(context);
    }
}

/* the factor is min(1, 0 / (norm + 1e-6)) */
TEST(clip_to_nothing) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *grad = noise(20, 1.0, 1);
    size_t i;
    CHECK(llm_clip_grad_norm(context, grad, 20, 0.0f) > 1.0f);
    for (i = 0; i < 20; i++)
        CHECK_MSG(grad[i] == 0.0f, "gradient %lu is %g", (unsigned long)i, (double)grad[i]);
    drop(grad);
    llm_context_free(context);
}

TEST(learning_rate_formulas) {
    static const int shapes[][3] = {{0, 100, 0},      {10, 100, 0}, {7, 50, 13}, {1, 2, 1},
                                    {100, 1000, 300}, {5, 5, 1},    {30, 20, 0}};
    static const float ratios[] = {0.0f, 0.25f, LLM_OFF, 1.0f};
    int s, r, kind;
    for (s = 0; s < 7; s++)
        for (r = 0; r < 4; r++)
            for (kind = 0; kind < 4; kind++) {
                const llm_schedule schedule = kind == 0   ? LLM_SCHEDULE_COSINE
                                              : kind == 1 ? LLM_SCHEDULE_LINEAR
                                              : kind == 2 ? LLM_SCHEDULE_WSD
                                                          : LLM_SCHEDULE_CONSTANT;
                const double lr = (double)0.002f, W = shapes[s][0], M = shapes[s][1];
                const double low = lr * (r == 0 ? (double)0.1f : r == 2 ? 0.0 : (double)ratios[r]);
                const double D = shapes[s][2] ? shapes[s][2] : shapes[s][1] / 10; /* a tenth of M */
                llm_train_desc d;
                int i, wrong = 0;
                memset(&d, 0, sizeof d);
                d.learning_rate = 0.002f; d.min_lr_ratio = ratios[r]; d.schedule = schedule;
                d.warmup_steps = shapes[s][0];
                d.max_steps = shapes[s][1];
                d.decay_steps = shapes[s][2];
                for (i = 0; i < 2 * shapes[s][1]; i++) {
                    double want;
                    if (i < W) want = lr * (i + 1) / W;
                    else if (kind == 3) want = lr;
                    else if (i >= M) want = low;
                    else if (kind == 0)
                        want = low + (lr - low) *
                                         (1.0 + cos(3.14159265358979323846 * (i - W) / (M - W))) /
                                         2.0;
                    else if (kind == 1) want = lr + (low - lr) * (i - W) / (M - W);
                    else want = i < M - D ? lr : lr + (low - lr) * (i - (M - D)) / D;
                    if (!(fabs((double)llm_learning_rate(&d, i) - want) <= 1e-6 * lr) && !wrong++)
                        CHECK_MSG(0, "schedule %d, W %g, M %g, D %g, low %g, update %d: %g, not %g",
                                  kind, W, M, D, low, i, (double)llm_learning_rate(&d, i), want);
                }
                CHECK(!wrong);
                CHECK(fabs((double)llm_learning_rate(&d, INT64_MAX) - (kind == 3 ? lr : low)) <=
                      1e-6 * lr);
            }
}

/* ---- all of them ----------------------------------------------------------------------------- */
/* every op that is not in a file of its own, on buffers of its own; what it gave goes to out */
typedef struct op_results { float *values[16]; size_t n; } op_results;

static op_results all_ops(int table, int n_threads) {
    const int rows = 41, width = 333;
    const size_t n = (size_t)rows * (size_t)width;
    llm_context *context = context_at(table, n_threads);
    float *x = noise(n, 2.0, 1), *dy = noise(n, 1.0, 2), *w = noise(n, 1.0, 3), *mean = floats(n),
          *rstd = floats(n);
    float *long_x = noise(5 * n, 1.0, 4), *long_y = noise(5 * n, 0.01, 5);
    int32_t tokens[41];
    op_results o;
    int i;
    o.n = n;
    for (i = 0; i < 16; i++) o.values[i] = filled(5 * n, 0.5f);
    for (i = 0; i < 41; i++) tokens[i] = i * i % 40;
    llm_layernorm_forward(context, o.values[0], mean, rstd, x, w, dy, rows, width, 1e-5f);
    llm_layernorm_backward(context, o.values[1], o.values[2], o.values[3], dy, mean, rstd, x, w,
                           rows, width);
    llm_rmsnorm_forward(context, o.values[4], rstd, x, w, rows, width, 1e-5f);
    llm_rmsnorm_backward(context, o.values[5], o.values[6], dy, rstd, x, w, rows, width);
    llm_gelu_forward(context, o.values[7], long_x, 5 * n);
    llm_gelu_backward(context, o.values[8], long_y, long_x, 5 * n);
    llm_softmax_forward(context, o.values[9], x, rows, width);
    llm_softmax_backward(context, o.values[10], dy, o.values[9], rows, width);
    llm_dropout_forward(context, o.values[11], long_x, 5 * n, 0.3f, 9);
    CHECK(llm_embedding_forward(context, o.values[12], tokens, x, rows, 40, width, NULL) == LLM_OK);
    CHECK(llm_embedding_backward(context, o.values[13], dy, tokens, rows, 40, width, NULL) ==
          LLM_OK);
    const llm_adamw adamw = adamw_of(2, 0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f);
    llm_adamw_update(context, o.values[14], long_y, o.values[15], long_x, 5 * n, &adamw);
    long_x[0] = llm_clip_grad_norm(context, long_x, 5 * n, 0.5f);
    memcpy(o.values[11], long_x, n * sizeof(float)); /* the clipped, beside what was dropped out */
    drop(x); drop(dy); drop(w); drop(mean); drop(rstd); drop(long_x); drop(long_y);
    llm_context_free(context);
    return o;
}
TEST(ops_threads_give_the_same_bits) {
    int t, i, j;
    for (t = 0; kernels_at(t); t++) {
        op_results one = all_ops(t, 1);
        for (i = 0; i < 3; i++) {
            op_results several = all_ops(t, op_threads[i]);
            for (j = 0; j < 16; j++) {
                CHECK_MSG(same_bits(one.values[j], several.values[j], 5 * one.n),
                          "%s, result %d: %d threads differ", kernels_at(t)->name, j,
                          op_threads[i]);
                drop(several.values[j]);
            }
        }
        for (j = 0; j < 16; j++) drop(one.values[j]);
    }
}

TEST(ops_with_nothing_to_do) {
    static const int dims[][2] = {{0, 3}, {3, 0}, {0, 0}};
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        float *y = floats(9), *x = noise(9, 1.0, 1);
        for (i = 0; i < 3; i++) {
            const int rows = dims[i][0], width = dims[i][1];
            llm_layernorm_forward(context, y, y, y, x, x, x, rows, width, 1e-5f);
            llm_layernorm_backward(context, y, y, y, x, x, x, x, x, rows, width);
            llm_rmsnorm_forward(context, y, y, x, x, rows, width, 1e-5f);
            llm_rmsnorm_backward(context, y, y, x, x, x, x, rows, width);
            llm_softmax_forward(context, y, x, rows, width);
            llm_softmax_backward(context, y, x, x, rows, width);
        }
        llm_gelu_forward(context, y, x, 0);
        llm_gelu_backward(context, y, x, x, 0);
        llm_dropout_forward(context, y, x, 0, 0.5f, 1);
        llm_dropout_backward(context, y, x, 0, 0.5f, 1);
        const llm_adamw adamw = adamw_of(0, 0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f);
        llm_adamw_update(context, y, y, y, x, 0, &adamw);
        CHECK(unwritten(y, 9));
        CHECK(llm_clip_grad_norm(context, y, 0, 1.0f) == 0.0f && unwritten(y, 9));
        drop(y); drop(x);
        llm_context_free(context);
    }
}

static void run_ops(void) {
    RUN(embedding_against_oracle);
    RUN(embedding_refuses_bad_tokens);
    RUN(embedding_bad_dims_and_nothing_to_do);
    RUN(layernorm_against_oracle);
    RUN(rmsnorm_against_oracle);
    RUN(layernorm_of_values_far_from_zero);
    RUN(norms_skip_what_is_null);
    RUN(gelu_against_oracle);
    RUN(gelu_of_every_size_of_value);
    RUN(activations_of_every_size_of_value);
    RUN(gelu_extremes);
    RUN(gelu_far_below_zero);
    RUN(softmax_against_oracle);
    RUN(softmax_extremes);
    RUN(dropout_against_oracle);
    RUN(dropout_seeds_and_probabilities);
    RUN(adamw_against_double);
    RUN(adamw_late_and_trivial);
    RUN(clip_against_double);
    RUN(clip_extremes);
    RUN(clip_to_nothing);
    RUN(learning_rate_formulas);
    RUN(ops_threads_give_the_same_bits);
    RUN(ops_with_nothing_to_do);
}
