/* bf16 and fp8: rounding against PyTorch's and against tables, products of rounded factors, and
 * training with them. Uses the products of test_gemm.c and the trainers of test_resume.c. */

/* ---- rounding, by arithmetic in double ---- */
static float bf16_by_hand(float x) { /* 8 significant bits, ties to even */
    int exponent;
    if (x == 0.0f) return x;
    (void)frexp((double)x, &exponent);
    if (exponent < -125) exponent = -125;
    return (float)ldexp(nearbyint(ldexp((double)x, 8 - exponent)), exponent - 8);
}
/* OCP 8-bit floating point, E4M3: exponent bias 7, no infinity; code 126 is 448 */
static double e4m3_value(int code) {
    return code < 8 ? ldexp((double)code, -9) : ldexp((double)(8 + code % 8), code / 8 - 10);
}
static float e4m3_by_hand(float x) {
    const double size = fabs((double)x);
    int code = 0;
    while (code < 126 && e4m3_value(code + 1) <= size) code++;
    if (code < 126) {
        const double below = size - e4m3_value(code), above = e4m3_value(code + 1) - size;
        if (above < below || (above == below && code % 2)) code++;
    }
    return (float)(x < 0.0f ? -e4m3_value(code) : e4m3_value(code));
}
/* the least power of two by which the largest comes down to 448 */
static float fp8_scale_by_hand(float largest) {
    double scale = ldexp(1.0, -40);
    while (largest > 1e-12f && scale * 448.0 < (double)largest) scale *= 2.0;
    return largest > 1e-12f ? (float)scale : 1.0f;
}

/* element (i,j) of a factor becomes what E4M3 makes of it; tiles of `lanes` by 128 along k */
static void fp8_by_hand(float *to, const float *from, size_t n, size_t k, size_t row, size_t col,
                        size_t lanes) {
    size_t i0, k0, i, j;
    for (i0 = 0; i0 < n; i0 += lanes)
        for (k0 = 0; k0 < k; k0 += 128) {
            const size_t i1 = i0 + lanes < n ? i0 + lanes : n, k1 = k0 + 128 < k ? k0 + 128 : k;
            float most = 0.0f, scale;
            for (i = i0; i < i1; i++)
                for (j = k0; j < k1; j++)
                    most = (float)fmax((double)most, fabs((double)from[i * row + j * col]));
            scale = fp8_scale_by_hand(most);
            for (i = i0; i < i1; i++)
                for (j = k0; j < k1; j++)
                    to[i * row + j * col] = e4m3_by_hand(from[i * row + j * col] / scale) * scale;
        }
}

TEST(precision_e4m3_is_pytorchs) {
    golden g = golden_open("", "e4m3.safetensors");
    const golden_tensor codes = golden_get(&g, "codes"), x = golden_get(&g, "x"),
                        rounded = golden_get(&g, "rounded");
    int t, i;
    CHECK(codes.count == 256 && x.count == rounded.count && x.count > 4000);
    for (i = 0; i < 256; i++) {        /* what a file's bytes mean */
        const float value = llmi_f8_to_f32((unsigned char)i);
        CHECK_MSG(value == codes.f[i] || (value != value && codes.f[i] != codes.f[i]),
                  "code %d is %g, not %g", i, (double)value, (double)codes.f[i]);
        if (i < 127) CHECK(e4m3_value(i) == (double)codes.f[i]);
    }
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        float *tile = filled(128, 0.0f), *unit = filled(128 * 128, 0.0f), *y = floats(128);
        llmi_matrix w = llmi_matrix_of(unit, 128, 128, 0);
        size_t at, wrong = 0, j;
        w.precision = LLM_PRECISION_FP8;
        tile[0] = 448.0f;              /* scales of 1: a tile's largest value is 448 */
        for (j = 0; j < 128; j++) unit[j * 129] = 448.0f;
        for (at = 0; at < x.count; at += 127) {
            const size_t n = x.count - at < 127 ? x.count - at : 127;
            memcpy(tile + 1, x.f + at, n * sizeof(float));
            llmi_matmul(context, y, 128, tile, w, NULL, 1, 0);     /* exact: 448 is 7 x 64 */
            CHECK(y[0] == 448.0f * 448.0f);
            for (j = 0; j < n; j++) wrong += y[j + 1] != 448.0f * rounded.f[at + j];
        }
        CHECK_MSG(wrong == 0, "%s: %lu of %lu differ from PyTorch's", context->kernels->name,
                  (unsigned long)wrong, (unsigned long)x.count);
        drop(tile); drop(unit); drop(y);
        llm_context_free(context);
    }
    golden_close(&g);
}

/* whatever the bits of a NaN, it is one after rounding, and in the sum of a product of bf16 */
TEST(precision_nan_stays) {
    static const uint32_t patterns[] = {0x7f800001, 0x7fffffff, 0x7fff8000, 0x7fff7fff, 0xffffffff,
                                        0xff800001, 0x7fc00000, 0x7f80ffff, 0xffff8000};
    int t, i, k;
    for (t = 0; kernels_at(t); t++)
        for (i = 0; i < (int)(sizeof patterns / sizeof patterns[0]); i++) {
            float x[64], half[32], back[64], y[20 * 8], a[20 * 32], w[8 * 32];
            llm_context *context = context_at(t, 1);
            llmi_matrix weight = llmi_matrix_of(w, 8, 32, 0);
            for (k = 0; k < 64; k++) x[k] = k % 5 ? 1.0f : llmi_float_of_bits(patterns[i]);
            kernels_at(t)->narrow(half, x, 64);
            kernels_at(t)->widen(back, half, 64);
            for (k = 0; k < 64; k++)
                CHECK_MSG(isnan(back[k]) == (k % 5 == 0), "%s, %08lx: value %d is %g",
                          kernels_at(t)->name, (unsigned long)patterns[i], k, (double)back[k]);
            for (k = 0; k < 20 * 32; k++) a[k] = 1.0f;
            for (k = 0; k < 8 * 32; k++) w[k] = 0.5f;
            w[3 * 32 + 7] = llmi_float_of_bits(patterns[i]);
            weight.precision = LLM_PRECISION_BF16;
            llmi_matmul(context, y, 8, a, weight, NULL, 20, 0);
            for (k = 0; k < 20 * 8; k++)
                CHECK_MSG(isnan(y[k]) == (k % 8 == 3), "%s, %08lx: output %d is %g",
                          kernels_at(t)->name, (unsigned long)patterns[i], k, (double)y[k]);
            llm_context_free(context);
        }
}

TEST(precision_narrow_and_widen) {
    static const size_t sizes[] = {0, 2, 4, 6, 16, 30, 32, 34, 46, 64, 1000};
    int t;
    for (t = 0; kernels_at(t); t++) {
        size_t s, i;
        for (s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            const size_t n = sizes[s];
            float *x = noise(n, 3.0, 11 + s), *half = floats(n / 2), *back = floats(n);
            int wrong = 0;
            for (i = 0; i < n; i += 5) x[i] = ldexpf(x[i], (int)i % 97 - 48);
            if (n > 4) x[3] = INFINITY;
            kernels_at(t)->narrow(half, x, n);
            kernels_at(t)->widen(back, half, n);
            for (i = 0; i < n; i++)
                wrong += back[i] != (isinf(x[i]) ? x[i] : bf16_by_hand(x[i]));
            CHECK_MSG(!wrong, "%s, n %lu: %d wrong", kernels_at(t)->name, (unsigned long)n,
                      wrong);
            drop(x); drop(half); drop(back);
        }
    }
}

/* ---- products: those of the rounded factors, to the rounding of f32 sums ---- */
static void product_round(product *p, float *a, float *b) {
    const llmi_gemm *g = &p->g;
    size_t i, j;
    if (g->precision == LLM_PRECISION_BF16) {
        for (i = 0; i < g->m; i++)
            for (j = 0; j < g->k; j++)
                a[i * g->a_row + j * g->a_col] = bf16_by_hand(p->a[i * g->a_row + j * g->a_col]);
        for (i = 0; i < g->n; i++)
            for (j = 0; j < g->k; j++)
                b[i * g->b_col + j * g->b_row] = bf16_by_hand(p->b[i * g->b_col + j * g->b_row]);
    } else {
        fp8_by_hand(a, p->a, g->m, g->k, g->a_row, g->a_col, 1);
        fp8_by_hand(b, p->b, g->n, g->k, g->b_col, g->b_row, g->w.data ? 128 : 1);
    }
}
TEST(precision_products) {
    static const size_t sizes[][3] = {{1, 1, 1},    {3, 5, 7},     {16, 33, 31},  {17, 40, 128},
                                      {31, 129, 64}, {70, 200, 129}, {40, 70, 800}, {300, 260, 40},
                                      {29, 1100, 33}};
    int t, precision, s;
    for (t = 0; kernels_at(t); t++)
        for (precision = LLM_PRECISION_BF16; precision <= LLM_PRECISION_FP8; precision++)
            for (s = 0; s < 9; s++) {
                unsigned c;
                for (c = 0; c < 12; c++) {
                    llm_context *context = context_at(t, 1 + (int)c % 3);
                    product p = product_of(sizes[s][0], sizes[s][1], sizes[s][2],
                                           c + 16 * ((unsigned)s % 3));
                    size_t a_size, b_size;
                    float *a, *b;
                    product_make(&p, 900 + c);
                    p.g.precision = (llm_precision)precision;
                    if (c % 2 == 0) p.g.w = llmi_matrix_of(p.g.b, p.g.n, p.g.k, 0);
                    a_size = (p.m - 1) * p.g.a_row + (p.k - 1) * p.g.a_col + 1;
                    b_size = (p.k - 1) * p.g.b_row + (p.n - 1) * p.g.b_col + 1;
                    llmi_gemm_run(context, &p.g);
                    a = copied(p.a, a_size);
                    b = copied(p.b, b_size);
                    product_round(&p, a, b);
                    p.g.a = a;
                    p.g.b = b;
                    product_check(&p, context->kernels);
                    drop(a); drop(b);
                    product_free(&p);
                    llm_context_free(context);
                }
            }
}

/* dW = dy^T x: both factors are activations, in tiles along the rows; in y and dx, W has its
 * blocks */
TEST(precision_linear_layer_in_fp8) {
    const size_t rows = 150, n_in = 200, n_out = 140;
    int t, transposed;
    for (t = 0; kernels_at(t); t++)
        for (transposed = 0; transposed < 2; transposed++) {
            llm_context *context = context_at(t, 2);
            float *w = noise(n_out * n_in, 1.0, 1), *x = noise(rows * n_in, 1.0, 2);
            float *dy = noise(rows * n_out, 1.0, 3), *c = floats(rows * n_in + n_out * n_in);
            float *factors[3][2];
            llmi_matrix matrix = llmi_matrix_of(w, n_out, n_in, transposed);
            llmi_gemm g[3];
            int i;
            matrix.precision = LLM_PRECISION_FP8;
            g[0] = llmi_product(c, n_out, x, matrix, NULL, rows, 0);
            g[1] = llmi_product_dx(c, dy, n_out, matrix, rows, 0);
            g[2] = llmi_product_dw(c, dy, n_out, x, matrix, rows, 0);
            for (i = 0; i < 3; i++) {
                const llmi_gemm *p = &g[i];
                const size_t a_size = p->m * p->k, b_size = p->k * p->n;
                double worst = 0.0;
                size_t m, n, k;
                factors[i][0] = copied(p->a, a_size);
                factors[i][1] = copied(p->b, b_size);
                fp8_by_hand(factors[i][0], p->a, p->m, p->k, p->a_row, p->a_col, 1);
                fp8_by_hand(factors[i][1], p->b, p->n, p->k, p->b_col, p->b_row, i < 2 ? 128 : 1);
                llmi_gemm_run(context, p);
                for (m = 0; m < p->m; m++)
                    for (n = 0; n < p->n; n++) {
                        double sum = 0.0;
                        for (k = 0; k < p->k; k++)
                            sum += (double)factors[i][0][m * p->a_row + k * p->a_col] *
                                   (double)factors[i][1][n * p->b_col + k * p->b_row];
                        worst = fmax(worst, fabs(sum - (double)c[m * p->ldc + n]));
                    }
                CHECK_MSG(worst < 1e-4, "%s, transposed %d, product %d: off by %g",
                          context->kernels->name, transposed, i, worst);
                drop(factors[i][0]);
                drop(factors[i][1]);
            }
            drop(w); drop(x); drop(dy); drop(c);
            llm_context_free(context);
        }
}

TEST(precision_not_finite_stays_so) {
    int t, precision, value;
    for (t = 0; kernels_at(t); t++)
        for (precision = LLM_PRECISION_BF16; precision <= LLM_PRECISION_FP8; precision++)
            for (value = 0; value < 4; value++) {
                static const float values[] = {INFINITY, -INFINITY, NAN, -NAN};
                llm_context *context = context_at(t, 1);
                product p = product_of(40, 50, 60, value % 2 ? 3 : 0);
                size_t j;
                int finite = 0;
                product_make(&p, 5);
                p.g.precision = (llm_precision)precision;
                p.a[7 * p.g.a_row + 9 * p.g.a_col] = values[value];
                llmi_gemm_run(context, &p.g);
                for (j = 0; j < p.n; j++) finite += isfinite(p.c[7 * p.g.ldc + j]) != 0;
                CHECK_MSG(!finite, "%s, precision %d: %d sums with %g are finite",
                          context->kernels->name, precision, finite, (double)values[value]);
                product_free(&p);
                llm_context_free(context);
            }
}

/* ---- training ---- */
static llm_trainer *precision_trainer(int deepseek, llm_precision precision, int recompute,
                                      int n_threads, const llm_allocator *allocator) {
    llm_config c = resume_config(deepseek);
    llm_train_desc d = train_desc(2, 12, n_threads);
    llm_model *model;
    c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = 0.0f;
    d.precision = precision;
    d.recompute = recompute;
    d.learning_rate = 1e-2f;
    model = shaken_model(&c, 3, n_threads, allocator);
    return model ? new_trainer(model, &d) : NULL;
}

/* Rounding to bf16 turns a gradient by some 2^-8 of its length; to fp8, by some 2^-4, and more
 * where a token then goes to another expert. A product left out, or a wrong scale, would show as
 * 0.9 or less. */
TEST(precision_gradients_point_where_f32s_do) {
    static const double cosine_at_least[] = {0.0, 0.9995, 0.96}, loss_off[] = {0.0, 2e-3, 0.1};
    const llmi_kernels *kernels;
    int k, deepseek, precision;
    for (deepseek = 0; deepseek < 2; deepseek++) {
        llm_trainer *exact = precision_trainer(deepseek, LLM_PRECISION_FP32, 0, 1, NULL);
        int32_t tokens[24], targets[24];
        llm_train_stats want;
        float *expected;
        random_batch(tokens, targets, 24, 41, 0.1, 71);
        CHECK(exact && llm_trainer_forward(exact, tokens, targets, &want, NULL) == LLM_OK);
        CHECK(llm_trainer_backward(exact, NULL) == LLM_OK);
        expected = copy_gradients(exact);
        for (k = 0; (kernels = kernels_at(k)) != NULL; k++)
            for (precision = LLM_PRECISION_BF16; precision <= LLM_PRECISION_FP8; precision++) {
                llm_trainer *t = precision_trainer(deepseek, (llm_precision)precision, 0, 2, NULL);
                double dot = 0.0, a = 0.0, b = 0.0;
                llm_train_stats got;
                float *gradients;
                size_t i;
                CHECK(t != NULL);
                if (!t) return;
                trainer_use(t, kernels);
                CHECK(llm_trainer_forward(t, tokens, targets, &got, NULL) == LLM_OK);
                CHECK(llm_trainer_backward(t, NULL) == LLM_OK);
                gradients = copy_gradients(t);
                for (i = 0; i < t->floats; i++) {
                    dot += (double)gradients[i] * (double)expected[i];
                    a += (double)gradients[i] * (double)gradients[i];
                    b += (double)expected[i] * (double)expected[i];
                }
                CHECK_MSG(dot / sqrt(a * b) >= cosine_at_least[precision] &&
                              fabs(sqrt(a / b) - 1.0) < 0.05,
                          "%s, deepseek %d, precision %d: cosine %.6f, length %.4f", kernels->name,
                          deepseek, precision, dot / sqrt(a * b), sqrt(a / b));
                CHECK_MSG(fabs((double)got.loss - (double)want.loss) <= loss_off[precision] &&
                              got.loss != want.loss,
                          "%s, deepseek %d, precision %d: loss %.6f, in f32 %.6f", kernels->name,
                          deepseek, precision, (double)got.loss, (double)want.loss);
                free(gradients);
                drop_trainer(t);
            }
        free(expected);
        drop_trainer(exact);
    }
}

TEST(precision_threads_give_the_same_bits) {
    int deepseek, precision, recompute;
    for (deepseek = 0; deepseek < 2; deepseek++)
        for (precision = LLM_PRECISION_BF16; precision <= LLM_PRECISION_FP8; precision++)
            for (recompute = 0; recompute < 2; recompute++) {
                llm_trainer *one = precision_trainer(deepseek, (llm_precision)precision, recompute,
                                                     1, NULL);
                llm_trainer *three = precision_trainer(deepseek, (llm_precision)precision,
                                                       recompute, 3, NULL);
                CHECK(one && three);
                if (!one || !three) return;
                resume_steps(one, 0, 3);
                resume_steps(three, 0, 3);
                CHECK_MSG(resume_equal(one, three), "deepseek %d, precision %d, recompute %d",
                          deepseek, precision, recompute);
                drop_trainer(one);
                drop_trainer(three);
            }
}

TEST(precision_learns) {               /* the same batch, again and again */
    int deepseek, precision;
    for (deepseek = 0; deepseek < 2; deepseek++) {
        double losses[3];
        for (precision = LLM_PRECISION_FP32; precision <= LLM_PRECISION_FP8; precision++) {
            llm_trainer *t = precision_trainer(deepseek, (llm_precision)precision, 0, 1, NULL);
            int32_t tokens[24], targets[24];
            llm_train_stats stats;
            int step;
            random_batch(tokens, targets, 24, 41, 0.0, 8);
            memset(&stats, 0, sizeof stats);
            for (step = 0; t && step < 60; step++)
                CHECK(llm_trainer_step(t, tokens, targets, &stats, NULL) == LLM_OK);
            losses[precision] = (double)stats.main_loss;
            drop_trainer(t);
        }
        CHECK_MSG(losses[0] < 1.0 && fabs(losses[1] - losses[0]) < 0.1 &&
                      fabs(losses[2] - losses[0]) < 0.25,
                  "deepseek %d: f32 %.4f, bf16 %.4f, fp8 %.4f", deepseek, losses[0], losses[1],
                  losses[2]);
    }
}

/* what llm_train_memory says is what is taken, but for the small records of objects and tables */
TEST(precision_memory_as_planned) {
    int deepseek, precision, recompute;
    for (deepseek = 0; deepseek < 2; deepseek++)
        for (precision = LLM_PRECISION_FP32; precision <= LLM_PRECISION_FP8; precision++)
            for (recompute = 0; recompute < 2; recompute++) {
                heap h;
                llm_trainer *t;
                llm_memory memory;
                llm_config c;
                llm_train_desc d;
                heap_init(&h);
                t = precision_trainer(deepseek, (llm_precision)precision, recompute, 2,
                                      &h.allocator);
                CHECK(t != NULL);
                if (!t) return;
                c = *llm_model_config(t->model);
                d = t->desc;
                CHECK(llm_train_memory(&c, &d, &memory, NULL) == LLM_OK);
                CHECK_MSG(fabs((double)h.bytes / (double)memory.total - 1.0) < 0.02,
                          "deepseek %d, precision %d, recompute %d: %.0f taken, %.0f planned",
                          deepseek, precision, recompute, (double)h.bytes, (double)memory.total);
                drop_trainer(t);
            }
}

/* The products of a weight, forward and to dx, take it in tiles of 128 x 128 to a scale: that of
 * a lane alone would give other bits where lanes differ in size. dW has no weight among its
 * factors. */
TEST(precision_fp8_weights_have_tiles) {
    enum { rows = 40, n_in = 70, n_out = 50 };
    float *x = noise(rows * n_in, 1.0, 1), *w = noise(n_out * n_in, 1.0, 2);
    float *dy = noise(rows * n_out, 1.0, 3), *got = floats(rows * n_in),
          *want = floats(rows * n_in);
    llm_context *context = llm_context_create(1, NULL, NULL);
    llmi_matrix weight = llmi_matrix_of(w, n_out, n_in, 0);
    int back, i;
    for (i = 0; i < n_out * n_in; i++) w[i] *= powf(1.7f, (float)(i / n_in % 9 + i % 5));
    weight.precision = LLM_PRECISION_FP8;
    for (back = 0; back < 2; back++) {
        const size_t n = rows * (back ? n_in : n_out);
        llmi_gemm g = back ? llmi_product_dx(got, dy, n_out, weight, rows, 0)
                           : llmi_product(got, n_out, x, weight, NULL, rows, 0);
        llmi_gemm_run(context, &g);
        g.c = want;
        g.w = weight;
        llmi_gemm_run(context, &g);
        CHECK(same_bits(got, want, n));
        g.w.data = NULL;
        llmi_gemm_run(context, &g);
        CHECK(!same_bits(got, want, n));
    }
    CHECK(llmi_product_dw(got, dy, n_out, x, weight, rows, 0).w.data == NULL);
    drop(x); drop(w); drop(dy); drop(got); drop(want);
    llm_context_free(context);
}

static void run_precision(void) {
    RUN(precision_e4m3_is_pytorchs);
    RUN(precision_narrow_and_widen);
    RUN(precision_nan_stays);
    RUN(precision_fp8_weights_have_tiles);
    RUN(precision_products);
    RUN(precision_linear_layer_in_fp8);
    RUN(precision_not_finite_stays_so);
    RUN(precision_gradients_point_where_f32s_do);
    RUN(precision_threads_give_the_same_bits);
    RUN(precision_learns);
    RUN(precision_memory_as_planned);
}
