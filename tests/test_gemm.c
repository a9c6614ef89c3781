/* Matrix products: gemm itself, on every table of kernels, and the linear layer on top of it.
 * Uses the tools at the top of test_core.c. */

/* What a float sum of k products may be off by, in units of the sum of their absolute values:
 * rounding errors of random sign grow with the root of k. A missing product is 1/k, a bf16 one
 * 1/500. */
static double product_error(size_t k) { return ldexp(4.0 + 2.0 * sqrt((double)k), -24); }

/* ---- gemm ------------------------------------------------------------------------------------ */
typedef struct product {
    size_t m, n, k;
    int a_turned, b_turned;            /* stored transposed: the layouts TN and NT */
    int bias, accumulate;
    size_t pad_a, pad_b, pad_c;        /* floats between rows */
    /* filled in by product_make */
    llmi_gemm g;
    float *a, *b, *c, *row, *c_before;
    size_t c_size;
} product;

/* rows x columns of noise, ld apart; what lies between is unwritten, and nothing follows the
 * last row */
static float *strided_noise(size_t rows, size_t columns, size_t ld, uint64_t seed) {
    const size_t size = rows && columns ? (rows - 1) * ld + columns : 0;
    float *x = floats(size);
    uint64_t state = seed;
    size_t i, j;
    for (i = 0; i < rows; i++)
        for (j = 0; j < columns; j++) x[i * ld + j] = (float)plain_noise(&state, 1.0);
    return x;
}
static void product_make(product *p, uint64_t seed) {
    const size_t lda = (p->a_turned ? p->m : p->k) + p->pad_a,
                 ldb = (p->b_turned ? p->k : p->n) + p->pad_b;
    llmi_gemm *g = &p->g;
    g->m = p->m; g->n = p->n; g->k = p->k;
    g->a_row = p->a_turned ? 1 : lda; g->a_col = p->a_turned ? lda : 1;
    g->b_row = p->b_turned ? 1 : ldb; g->b_col = p->b_turned ? ldb : 1;
    g->ldc = p->n + p->pad_c;
    g->accumulate = p->accumulate;
    p->a =
        p->a_turned ? strided_noise(p->k, p->m, lda, seed) : strided_noise(p->m, p->k, lda, seed);
    p->b = p->b_turned ? strided_noise(p->n, p->k, ldb, seed + 1)
                       : strided_noise(p->k, p->n, ldb, seed + 1);
    p->row = noise(p->n, 1.0, seed + 2);
    p->c_size = p->m && p->n ? (p->m - 1) * g->ldc + p->n : 0;
    p->c_before = p->accumulate ? strided_noise(p->m, p->n, g->ldc, seed + 3) : floats(p->c_size);
    p->c = copied(p->c_before, p->c_size);
    g->a = p->a; g->b = p->b; g->c = p->c;
    g->bias = p->bias ? p->row : NULL;
}
static void product_free(product *p) {
    drop(p->a); drop(p->b); drop(p->c); drop(p->row); drop(p->c_before);
}

static void product_check(const product *p, const llmi_kernels *kernels) {
    const llmi_gemm *g = &p->g;
    double *sum = doubles(g->n), *size = doubles(g->n), worst = 0.0, got = 0.0, want = 0.0;
    size_t i, j, k, at_i = 0, at_j = 0;
    int padding = 1;
    for (i = 0; i < g->m; i++) {
        for (j = 0; j < g->n; j++) {
            sum[j] = (p->accumulate ? (double)p->c_before[i * g->ldc + j] : 0.0) +
                     (p->bias ? (double)p->row[j] : 0.0);
            size[j] = 1.0 + fabs(sum[j]);
        }
        if (p->b_turned) {
            for (j = 0; j < g->n; j++)
                for (k = 0; k < g->k; k++) {
                    const double x =
                        (double)g->a[i * g->a_row + k * g->a_col] * (double)g->b[j * g->b_col + k];
                    sum[j] += x;
                    size[j] += fabs(x);
                }
        } else {
            for (k = 0; k < g->k; k++)
                for (j = 0; j < g->n; j++) {
                    const double x =
                        (double)g->a[i * g->a_row + k * g->a_col] * (double)g->b[k * g->b_row + j];
                    sum[j] += x;
                    size[j] += fabs(x);
                }
        }
        for (j = 0; j < g->n; j++) {
            double e = fabs((double)p->c[i * g->ldc + j] - sum[j]) / size[j];
            if (!(e >= 0.0)) e = HUGE_VAL;
            if (e > worst) {
                worst = e; got = (double)p->c[i * g->ldc + j]; want = sum[j];
                at_i = i; at_j = j;
            }
        }
        if (g->n && i + 1 < g->m)
            padding = padding && unwritten(p->c + i * g->ldc + g->n, p->pad_c);
    }
    CHECK_MSG(worst <= product_error(g->k),
              "%s, %c%c, m %lu n %lu k %lu, accumulate %d, bias %d, padding %lu: C(%lu,%lu) is %g, "
              "not %g",
              kernels->name, p->a_turned ? 'T' : 'N', p->b_turned ? 'T' : 'N', (unsigned long)g->m,
              (unsigned long)g->n, (unsigned long)g->k, p->accumulate, p->bias,
              (unsigned long)p->pad_c, (unsigned long)at_i, (unsigned long)at_j, got, want);
    CHECK_MSG(padding, "%s, m %lu n %lu k %lu: wrote between the rows of C", kernels->name,
              (unsigned long)g->m, (unsigned long)g->n, (unsigned long)g->k);
    free(sum);
    free(size);
}

/* case number c chooses layout, bias, accumulation and strides */
static product product_of(size_t m, size_t n, size_t k, unsigned c) {
    product p;
    memset(&p, 0, sizeof p);
    p.m = m; p.n = n; p.k = k;
    p.a_turned = (int)(c & 1);
    p.b_turned = (int)(c >> 1 & 1);
    p.accumulate = (int)(c >> 2 & 1);
    p.bias = (int)(c >> 3 & 1);
    p.pad_a = c / 16 % 3 == 1 ? 5 : 0;
    p.pad_b = c / 16 % 3 == 1 ? 1 : c / 16 % 3 == 2 ? 16 : 0;
    p.pad_c = c / 16 % 3 * 3;
    return p;
}
static void product_run(llm_context *context, size_t m, size_t n, size_t k, unsigned c) {
    product p = product_of(m, n, k, c);
    product_make(&p, 1 + c + 64 * (m + 1000 * n + 1000000 * k));
    llmi_gemm_run(context, &p.g);
    product_check(&p, context->kernels);
    product_free(&p);
}

TEST_OF_TABLES(gemm_rows_around_the_tile, context, 1) {
    const llmi_tiles *tiles = &context->kernels->tiles[LLM_PRECISION_FP32];
    const size_t mr = tiles->mr, mc = tiles->mc;
    const size_t sizes[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, mr - 1, mr, mr + 1, 2 * mr - 1,
                            2 * mr + 1, 4 * mr + 1, mc - 1, mc, mc + 1};
    unsigned i, c;
    for (i = 0; i < 18; i++)
        for (c = 0; c < 48; c += i < 14 ? 1 : 5)
            product_run(context, sizes[i], tiles->nr + 1, 11, c);
}
TEST_OF_TABLES(gemm_columns_around_the_tile, context, 1) {
    const llmi_tiles *tiles = &context->kernels->tiles[LLM_PRECISION_FP32];
    const size_t w = context->kernels->w, nr = tiles->nr;
    const size_t sizes[] = {1, 2, 3, w - (w > 1), w, w + 1, nr - 1, nr, nr + 1, 2 * nr - 1,
                            2 * nr + 1, 4 * nr + 1, 63, 64, 65, 129, 257};
    unsigned i, c;
    for (i = 0; i < 17; i++)
        for (c = 0; c < 48; c++) product_run(context, c % 3 ? tiles->mr + 17 : 5, sizes[i], 13, c);
}
TEST_OF_TABLES(gemm_depth_around_the_block, context, 1) {
    const llmi_tiles *tiles = &context->kernels->tiles[LLM_PRECISION_FP32];
    const size_t w = context->kernels->w, kc = tiles->kc;
    const size_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, w + 1, 2 * w + 1, 31, 32, 33, 47, 63, 64, 65,
                            kc - 1, kc, kc + 1, kc + 5, 2 * kc, 2 * kc + 3, 3 * kc + 1};
    unsigned i, c;
    for (i = 0; i < 24; i++)
        for (c = 0; c < 48; c += i < 17 ? 1 : 7)
            product_run(context, c % 3 ? 19 : 3, tiles->nr + 3, sizes[i], c);
}
/* more than one block in two or three directions at once */
TEST_OF_TABLES(gemm_many_blocks, context, 2) {
    const llmi_tiles *tiles = &context->kernels->tiles[LLM_PRECISION_FP32];
    const size_t m = tiles->mc + 1, n = 3 * LLMI_B_COLUMNS + 1, d = tiles->kc + 1;
    unsigned c;
    for (c = 0; c < 4; c++) {
        product_run(context, m, 2 * tiles->nr + 1, d, c + 8);
        product_run(context, 17, n, 9, c + 4 + 16);
        product_run(context, 2 * LLMI_A_ROWS + 3, tiles->nr + 1, 5, c + 12 + 32);
    }
    product_run(context, 18, n + tiles->nr, d + 2, 2 + 8);
    product_run(context, 2 * LLMI_A_ROWS + 1, 3, d, 1 + 4);
    product_run(context, 2 * LLMI_A_ROWS + 1, n, 3, 0);
    product_run(context, 16, 4200, 33, 0 + 16);            /* few rows: y in pieces */
    product_run(context, 1, 4200, 33, 0 + 4 + 16);
    product_run(context, 5, 3001, 40, 2 + 8 + 16);
}

/* small integers: every sum is exact, so every table gives the same bits as the plain sum */
TEST_OF_TABLES(gemm_exact_integers, context, 3) {
    const llmi_kernels *kernels = context->kernels;
    const llmi_tiles *tiles = &kernels->tiles[LLM_PRECISION_FP32];
    const size_t ms[] = {1, 7, 16, 17, tiles->mr + 3, tiles->mc + 2};
    unsigned i, c;
    for (i = 0; i < 6; i++)
        for (c = 0; c < 8; c++) {
            product p =
                product_of(ms[i], 2 * tiles->nr + 5, c % 3 == 1 ? tiles->kc + 6 : 35, c + 16);
            size_t x, y, k;
            int wrong = 0;
            product_make(&p, 77 + c);
            for (x = 0; x < p.m; x++)
                for (k = 0; k < p.k; k++)
                    p.a[x * p.g.a_row + k * p.g.a_col] =
                        (float)((int)(x * 7 + k * 5 + x * k) % 17 - 8);
            for (y = 0; y < p.n; y++)
                for (k = 0; k < p.k; k++)
                    p.b[k * p.g.b_row + y * p.g.b_col] =
                        (float)((int)(y * 11 + k * 3 + y * k) % 19 - 9);
            for (x = 0; x < p.m && p.accumulate; x++)
                for (y = 0; y < p.n; y++) p.c[x * p.g.ldc + y] = (float)((int)(x + y) % 5);
            llmi_gemm_run(context, &p.g);
            for (x = 0; x < p.m; x++)
                for (y = 0; y < p.n; y++) {
                    int sum = p.accumulate ? (int)(x + y) % 5 : 0;
                    for (k = 0; k < p.k; k++)
                        sum += ((int)(x * 7 + k * 5 + x * k) % 17 - 8) *
                               ((int)(y * 11 + k * 3 + y * k) % 19 - 9);
                    wrong += (double)p.c[x * p.g.ldc + y] != (double)sum;
                }
            CHECK_MSG(!wrong, "%s, m %lu n %lu k %lu, case %u: %d sums are not exact",
                      kernels->name, (unsigned long)p.m, (unsigned long)p.n, (unsigned long)p.k, c,
                      wrong);
            product_free(&p);
        }
}

TEST_OF_TABLES(gemm_without_depth, context, 1) {             /* the sum of no products is 0 */
    static const size_t ms[] = {1, 16, 17, 40};
    unsigned i, c;
    for (i = 0; i < 4; i++)
        for (c = 0; c < 16; c++) product_run(context, ms[i], 21, 0, c + 32);
}
TEST_OF_TABLES(gemm_without_elements, context, 1) {
    unsigned c;
    for (c = 0; c < 48; c++) {
        product_run(context, 0, 5, 3, c);
        product_run(context, 20, 0, 3, c);
        product_run(context, 0, 0, 0, c);
    }
}

/* a NaN or an infinity in A reaches its row, in B its column, and nothing else */
TEST_OF_TABLES(gemm_not_finite_stays_in_its_place, context, 1) {
    static const size_t ms[] = {5, 40};
    unsigned i, c, kind;
    for (i = 0; i < 2; i++)
        for (c = 0; c < 4; c++)
            for (kind = 0; kind < 2; kind++) {
                product p = product_of(ms[i], 37, 45, c);
                const float bad = kind ? INFINITY : NAN;
                size_t x, y;
                int wrong = 0;
                product_make(&p, 5 + c);
                p.a[3 * p.g.a_row + 41 * p.g.a_col] = bad;
                p.b[44 * p.g.b_row + 35 * p.g.b_col] = bad;
                llmi_gemm_run(context, &p.g);
                for (x = 0; x < p.m; x++)
                    for (y = 0; y < p.n; y++)
                        wrong += (fabs((double)p.c[x * p.g.ldc + y]) <= 1e30) !=
                                 (x != 3 && y != 35);
                CHECK_MSG(!wrong, "%s, m %lu, layout %u, %s: %d values", context->kernels->name,
                          (unsigned long)ms[i], c, kind ? "infinity" : "NaN", wrong);
                product_free(&p);
            }
}

/* far from 1, the relative precision is the same */
TEST(gemm_large_and_small_values) {
    static const double scales[][2] = {{1e-20, 1e20}, {1e18, 1e18}, {1e-15, 1e-15}, {1e30, 1e-30}};
    int t;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        int s;
        unsigned c;
        for (s = 0; s < 4; s++)
            for (c = 0; c < 8; c++) {
                const size_t m = c & 4 ? 4 : 33;
                product p = product_of(m, 18, 50, c & 3);
                const double unit = scales[s][0] * scales[s][1];
                double worst = 0.0;
                size_t x, y, k;
                product_make(&p, 9 + c);
                for (x = 0; x < m * 50; x++) p.a[x] = (float)((double)p.a[x] * scales[s][0]);
                for (x = 0; x < 18 * 50; x++) p.b[x] = (float)((double)p.b[x] * scales[s][1]);
                llmi_gemm_run(context, &p.g);
                for (x = 0; x < m; x++)
                    for (y = 0; y < 18; y++) {
                        double sum = 0.0, e;
                        for (k = 0; k < 50; k++)
                            sum += (double)p.a[x * p.g.a_row + k * p.g.a_col] *
                                   (double)p.b[k * p.g.b_row + y * p.g.b_col];
                        e = fabs((double)p.c[x * p.g.ldc + y] - sum) / unit;
                        worst = e <= worst ? worst : e;        /* NaN, too */
                    }
                CHECK_MSG(worst <= 50.0 * product_error(50), "%s, m %lu, %g times %g: off by %g",
                          context->kernels->name, (unsigned long)m, scales[s][0], scales[s][1],
                          worst * unit);
                product_free(&p);
            }
        llm_context_free(context);
    }
}

TEST(gemm_threads_give_the_same_bits) {
    static const int threads[] = {2, 3, 5};
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        const llmi_kernels *k = kernels_at(t);
        const llmi_tiles *tiles = &k->tiles[LLM_PRECISION_FP32];
        const size_t sizes[][3] = {{1, 3000, 257},
                                   {16, 1030, 70},
                                   {7, 700, 65},
                                   {17, 200, 300},
                                   {130, 130, 40},
                                   {300, 70, tiles->kc + 9},
                                   {64, 8 * LLMI_B_COLUMNS + 40, 33},
                                   {1, 5, 9}};
        int s;
        for (s = 0; s < 8; s++) {
            unsigned c;
            for (c = 0; c < 4; c++) {
                product p =
                    product_of(sizes[s][0], sizes[s][1], sizes[s][2], c + 8 + (s % 2 ? 4 : 0));
                llm_context *one = context_at(t, 1);
                float *alone;
                product_make(&p, 31 + c);
                llmi_gemm_run(one, &p.g);
                alone = copied(p.c, p.c_size);
                llm_context_free(one);
                for (i = 0; i < 3; i++) {
                    llm_context *several = context_at(t, threads[i]);
                    memcpy(p.c, p.c_before, p.c_size * sizeof(float));
                    llmi_gemm_run(several, &p.g);
                    CHECK_MSG(same_bits(p.c, alone, p.c_size),
                              "%s, %lu x %lu x %lu, layout %u: %d threads differ", k->name,
                              (unsigned long)p.m, (unsigned long)p.n, (unsigned long)p.k, c,
                              threads[i]);
                    llm_context_free(several);
                }
                drop(alone);
                product_free(&p);
            }
        }
    }
}

/* Up to 16 rows: what a row gets does not depend on how many there are, nor on the threads. This
 * is why a batch of sequences decodes to the same tokens as each one alone. */
TEST(gemm_few_rows_are_independent) {
    static const size_t shapes[][2] = {{1, 1},     {37, 50}, {300, 129},
                                       {2000, 33}, {5, 700}, {4100, 17}};
    int t, s;
    for (t = 0; kernels_at(t); t++)
        for (s = 0; s < 6; s++) {
            const size_t n = shapes[s][0], k = shapes[s][1];
            float *x = noise(16 * k, 1.0, 1), *w = noise(n * k, 1.0, 2), *bias = noise(n, 1.0, 3);
            float *before = noise(16 * n, 1.0, 4), *all = floats(16 * n), *some = floats(16 * n);
            llm_context *one = context_at(t, 1), *three = context_at(t, 3);
            int transposed, accumulate;
            for (transposed = 0; transposed < 2; transposed++)
                for (accumulate = 0; accumulate < 2; accumulate++) {
                    const llmi_matrix matrix = llmi_matrix_of(w, n, k, transposed);
                    const float *add = accumulate ? NULL : bias;
                    size_t rows, first;
                    memcpy(all, before, 16 * n * sizeof(float));
                    llmi_matmul(one, all, n, x, matrix, add, 16, accumulate);
                    for (rows = 1; rows < 16; rows += rows < 5 ? 1 : 4)
                        for (first = 0; first + rows <= 16; first += rows) {
                            memcpy(some, before + first * n, rows * n * sizeof(float));
                            llmi_matmul(rows % 2 ? one : three, some, n, x + first * k, matrix, add,
                                        rows, accumulate);
                            CHECK_MSG(
                                same_bits(some, all + first * n, rows * n),
                                "%s, weight (%lu,%lu)%s: rows %lu to %lu depend on the others",
                                one->kernels->name, (unsigned long)n, (unsigned long)k,
                                transposed ? " transposed" : "", (unsigned long)first,
                                (unsigned long)(first + rows - 1));
                        }
                }
            llm_context_free(one);
            llm_context_free(three);
            drop(x); drop(w); drop(bias); drop(before); drop(all); drop(some);
        }
}

/* Products that are shared out together, of few rows (by columns), of many, and of none: each
 * gets what it gets alone. */
TEST(gemm_batch_equals_products_alone) {
    static const size_t rows[] = {3, 3, 0, 1, 600, 600, 5, 16},
                        columns[] = {75, 131, 9, 1, 40, 33, 90, 64};
    const size_t k = 50, N = sizeof rows / sizeof *rows;
    int t, threads;
    for (t = 0; kernels_at(t); t++)
        for (threads = 1; threads <= 3; threads++) {
            llm_context *context = context_at(t, threads);
            llmi_gemm products[8];
            float *x[8], *w[8], *bias[8], *y[8], *alone[8];
            size_t p;
            for (p = 0; p < N; p++) {
                const int transposed = p == 6, again = p == 1 || p == 5;
                x[p] = again ? x[p - 1] : noise(rows[p] * k + 1, 1.0, 4 * p);
                w[p] = noise(columns[p] * k, 1.0, 4 * p + 1);
                bias[p] = noise(columns[p], 1.0, 4 * p + 2);
                y[p] = noise(rows[p] * columns[p] + 1, 1.0, 4 * p + 3);
                alone[p] = copied(y[p], rows[p] * columns[p] + 1);
                products[p] = llmi_product(alone[p], columns[p], x[p],
                                           llmi_matrix_of(w[p], columns[p], k, transposed),
                                           p % 2 ? bias[p] : NULL, rows[p], p == 7);
                llmi_gemm_run(context, &products[p]);
                products[p].c = y[p];
                products[p].same_a = again;
            }
            llmi_gemm_batch(context, products, N);
            for (p = 0; p < N; p++) {
                CHECK_MSG(same_bits(y[p], alone[p], rows[p] * columns[p] + 1),
                          "%s, %d threads: product %lu differs", context->kernels->name, threads,
                          (unsigned long)p);
                if (p != 1 && p != 5) drop(x[p]);
            }
            for (p = 0; p < N; p++) { drop(w[p]); drop(bias[p]); drop(y[p]); drop(alone[p]); }
            llm_context_free(context);
        }
}

/* A weight so wide that the sums of k's parts do not fit in the panels at once. */
TEST(gemm_few_rows_by_a_wide_weight) {
    const size_t rows = 16, n = 20000, k = 6;
    float *x = noise(rows * k, 1.0, 1), *w = noise(n * k, 1.0, 2), *bias = noise(n, 1.0, 3),
          *y = floats(rows * n);
    double *want = doubles(rows * n);
    size_t r, i, o;
    int t;
    for (r = 0; r < rows; r++)
        for (o = 0; o < n; o++) {
            want[r * n + o] = (double)bias[o];
            for (i = 0; i < k; i++) want[r * n + o] += (double)x[r * k + i] * (double)w[i * n + o];
        }
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 2);
        llmi_matmul(context, y, n, x, llmi_matrix_of(w, n, k, 1), bias, rows, 0);
        CHECK_CLOSE(y, want, rows * n, 3e-5, 0.0, context->kernels->name);
        llm_context_free(context);
    }
    drop(x); drop(w); drop(bias); drop(y);
    free(want);
}

/* ---- a weight in either layout --------------------------------------------------------------- */
/* y = x W^T + bias, dx = dy W, dW = dy^T x, where rows of y and dy are further apart than n_out */
TEST(gemm_matrix_in_either_layout) {
    static const size_t shapes[][3] = {{1, 5, 3},    {6, 33, 20},  {16, 64, 40},
                                       {17, 20, 65}, {70, 48, 33}, {3, 131, 260}};
    int t, s, transposed, accumulate;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (s = 0; s < 6; s++)
            for (transposed = 0; transposed < 2; transposed++)
                for (accumulate = 0; accumulate < 2; accumulate++) {
                    const size_t rows = shapes[s][0], n_out = shapes[s][1], n_in = shapes[s][2],
                                 ld = n_out + 7;
                    const size_t size = (rows - 1) * ld + n_out;
                    const size_t step_o = transposed ? 1 : n_in,
                                 step_i = transposed ? n_out : 1; /* W(o,i) */
                    float *x = noise(rows * n_in, 1.0, 1), *w = noise(n_out * n_in, 1.0, 2),
                          *bias = noise(n_out, 1.0, 3);
                    float *dy = strided_noise(rows, n_out, ld, 4), *y = floats(size),
                          *dx = filled(rows * n_in, 2.0f);
                    float *dw = filled(n_out * n_in, 3.0f), *tight = floats(rows * n_out);
                    double *want = doubles(rows * n_out), *want_dx = doubles(rows * n_in),
                           *want_dw = doubles(n_out * n_in);
                    const llmi_matrix matrix = llmi_matrix_of(w, n_out, n_in, transposed);
                    char label[96];
                    size_t r, i, o;
                    int padding = 1;
                    for (r = 0; r < rows * n_in; r++) want_dx[r] = accumulate ? 2.0 : 0.0;
                    for (r = 0; r < n_out * n_in; r++) want_dw[r] = accumulate ? 3.0 : 0.0;
                    for (r = 0; r < rows; r++)
                        for (o = 0; o < n_out; o++) {
                            double sum = (double)bias[o];
                            for (i = 0; i < n_in; i++) {
                                const size_t at = o * step_o + i * step_i;
                                sum += (double)x[r * n_in + i] * (double)w[at];
                                want_dx[r * n_in + i] += (double)dy[r * ld + o] * (double)w[at];
                                want_dw[at] += (double)dy[r * ld + o] * (double)x[r * n_in + i];
                            }
                            want[r * n_out + o] = sum;
                        }
                    llmi_matmul(context, y, ld, x, matrix, bias, rows, 0);
                    llmi_matmul_dx(context, dx, dy, ld, matrix, rows, accumulate);
                    llmi_matmul_dw(context, dw, dy, ld, x, matrix, rows, accumulate);
                    for (r = 0; r < rows; r++) {
                        memcpy(tight + r * n_out, y + r * ld, n_out * sizeof(float));
                        if (r + 1 < rows) padding = padding && unwritten(y + r * ld + n_out, 7);
                    }
                    snprintf(label, sizeof label, "%s, %lu rows, W (%lu,%lu)%s",
                             context->kernels->name, (unsigned long)rows, (unsigned long)n_out,
                             (unsigned long)n_in, transposed ? " transposed" : "");
                    CHECK_CLOSE(tight, want, rows * n_out, 3e-5, 0.0, label);
                    CHECK_CLOSE(dx, want_dx, rows * n_in, 3e-5, 0.0, label);
                    CHECK_CLOSE(dw, want_dw, n_out * n_in, 3e-5, 0.0, label);
                    CHECK_MSG(padding, "%s: wrote between rows", label);
                    drop(x);
                    drop(w);
                    drop(bias);
                    drop(dy);
                    drop(y);
                    drop(dx);
                    drop(dw);
                    drop(tight);
                    free(want); free(want_dx); free(want_dw);
                }
        llm_context_free(context);
    }
}

/* ---- the linear layer ------------------------------------------------------------------------ */
/* loss = sum of dy y, in double; the gradients by their formulas */
typedef struct linear_case {
    int rows, n_in, n_out;
    double *x, *w, *b, *dy, *y, *dx, *dw, *db;
} linear_case;

static double linear_loss(void *argument) {
    linear_case *c = (linear_case *)argument;
    double loss = 0.0;
    int r, o, i;
    for (r = 0; r < c->rows; r++)
        for (o = 0; o < c->n_out; o++) {
            double sum = c->b[o];
            for (i = 0; i < c->n_in; i++) sum += c->x[r * c->n_in + i] * c->w[o * c->n_in + i];
            c->y[r * c->n_out + o] = sum;
            loss += sum * c->dy[r * c->n_out + o];
        }
    return loss;
}
static void linear_gradients(linear_case *c) {
    int r, o, i;
    for (r = 0; r < c->rows; r++)
        for (o = 0; o < c->n_out; o++) {
            const double g = c->dy[r * c->n_out + o];
            c->db[o] += g;
            for (i = 0; i < c->n_in; i++) {
                c->dx[r * c->n_in + i] += g * c->w[o * c->n_in + i];
                c->dw[o * c->n_in + i] += g * c->x[r * c->n_in + i];
            }
        }
}

static const int linear_shapes[][3] = {   /* rows, n_in, n_out */
    {1, 1, 1},    {3, 4, 5},    {1, 768, 33}, {15, 17, 31}, {16, 64, 65}, {17, 33, 9},
    {40, 3, 130}, {65, 100, 7}, {33, 8, 768}, {300, 20, 21}, {2, 1, 300}, {31, 300, 1}};

TEST(linear_against_oracle) {
    size_t s;
    for (s = 0; s < sizeof linear_shapes / sizeof linear_shapes[0]; s++) {
        const size_t rows = (size_t)linear_shapes[s][0], n_in = (size_t)linear_shapes[s][1];
        const size_t n_out = (size_t)linear_shapes[s][2];
        float *x = noise(rows * n_in, 1.0, s), *w = noise(n_out * n_in, 1.0, s + 100),
              *b = noise(n_out, 1.0, s + 200);
        float *dy = noise(rows * n_out, 1.0, s + 300);
        linear_case c;
        double error_y, error_dx, error_dw;
        size_t i;
        int t;
        c.rows = (int)rows; c.n_in = (int)n_in; c.n_out = (int)n_out;
        c.x = widened(x, rows * n_in); c.w = widened(w, n_out * n_in); c.b = widened(b, n_out);
        c.dy = widened(dy, rows * n_out); c.y = doubles(rows * n_out);
        c.dx = doubles(rows * n_in); c.dw = doubles(n_out * n_in); c.db = doubles(n_out);
        linear_loss(&c);
        linear_gradients(&c);
        if (rows * n_in * n_out <= 100) {
            check_slopes(linear_loss, &c, c.x, c.dx, rows * n_in, "linear dx");
            check_slopes(linear_loss, &c, c.w, c.dw, n_out * n_in, "linear dweight");
            check_slopes(linear_loss, &c, c.b, c.db, n_out, "linear dbias");
            linear_loss(&c);
        }
        for (i = 0; i < rows * n_in; i++) c.dx[i] += 0.5;      /* a backward adds */
        for (i = 0; i < n_out * n_in; i++) c.dw[i] += -2.0;
        for (i = 0; i < n_out; i++) c.db[i] += 4.0;
        error_y = 6.0 * product_error(n_in) * (double)n_in;
        error_dx = 6.0 * product_error(n_out) * (double)n_out;
        error_dw = 6.0 * product_error(rows) * (double)rows;
        for (t = 0; kernels_at(t); t++) {
            llm_context *context = context_at(t, 2);
            float *y = floats(rows * n_out), *dx = filled(rows * n_in, 0.5f),
                  *dw = filled(n_out * n_in, -2.0f);
            float *db = filled(n_out, 4.0f);
            char label[96];
            snprintf(label, sizeof label, "%s, %lu rows, %lu to %lu", context->kernels->name,
                     (unsigned long)rows, (unsigned long)n_in, (unsigned long)n_out);
            CHECK(llm_linear_forward(context, y, x, w, b, c.rows, c.n_in, c.n_out) == LLM_OK);
            CHECK_CLOSE(y, c.y, rows * n_out, error_y, 1e-6, label);
            CHECK(llm_linear_backward(context, dx, dw, db, dy, x, w, c.rows, c.n_in, c.n_out) ==
                  LLM_OK);
            CHECK_CLOSE(dx, c.dx, rows * n_in, error_dx, 1e-6, label);
            CHECK_CLOSE(dw, c.dw, n_out * n_in, error_dw, 1e-6, label);
            CHECK_CLOSE(db, c.db, n_out, error_dw, 1e-6, label);
            for (i = 0; i < rows * n_out; i++) c.y[i] -= c.b[i % n_out];
            CHECK(llm_linear_forward(context, y, x, w, NULL, c.rows, c.n_in, c.n_out) == LLM_OK);
            CHECK_CLOSE(y, c.y, rows * n_out, error_y, 1e-6, label);
            for (i = 0; i < rows * n_out; i++) c.y[i] += c.b[i % n_out];
            drop(y); drop(dx); drop(dw); drop(db);
            llm_context_free(context);
        }
        drop(x); drop(w); drop(b); drop(dy);
        free(c.x); free(c.w); free(c.b); free(c.dy); free(c.y); free(c.dx); free(c.dw); free(c.db);
    }
}

TEST(linear_skips_what_is_null) {
    const size_t rows = 21, n_in = 19, n_out = 35;
    float *x = noise(rows * n_in, 1.0, 1), *w = noise(n_out * n_in, 1.0, 2),
          *dy = noise(rows * n_out, 1.0, 3);
    float *all_dx = filled(rows * n_in, 1.0f), *all_dw = filled(n_out * n_in, 1.0f),
          *all_db = filled(n_out, 1.0f);
    llm_context *context = llm_context_create(2, NULL, NULL);
    int mask;
    CHECK(llm_linear_backward(context, all_dx, all_dw, all_db, dy, x, w, 21, 19, 35) == LLM_OK);
    for (mask = 0; mask < 8; mask++) {
        float *dx = filled(rows * n_in, 1.0f), *dw = filled(n_out * n_in, 1.0f),
              *db = filled(n_out, 1.0f);
        CHECK(llm_linear_backward(context, mask & 1 ? dx : NULL, mask & 2 ? dw : NULL,
                                  mask & 4 ? db : NULL, dy, x, w, 21, 19, 35) == LLM_OK);
        CHECK(!(mask & 1) || same_bits(dx, all_dx, rows * n_in));
        CHECK(!(mask & 2) || same_bits(dw, all_dw, n_out * n_in));
        CHECK(!(mask & 4) || same_bits(db, all_db, n_out));
        drop(dx); drop(dw); drop(db);
    }
    drop(x); drop(w); drop(dy); drop(all_dx); drop(all_dw); drop(all_db);
    llm_context_free(context);
}

TEST(linear_threads_give_the_same_bits) {
    static const int threads[] = {2, 3, 5};
    const size_t rows = 150, n_in = 140, n_out = 290;
    float *x = noise(rows * n_in, 1.0, 1), *w = noise(n_out * n_in, 1.0, 2);
    float *dy = noise(rows * n_out, 1.0, 3);
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        float *y[2], *dx[2], *dw[2], *db[2];
        for (i = 0; i < 4; i++) {
            llm_context *context = context_at(t, i ? threads[i - 1] : 1);
            const int at = i > 0;
            y[at] = floats(rows * n_out); dx[at] = filled(rows * n_in, 0.1f);
            dw[at] = filled(n_out * n_in, 0.1f); db[at] = filled(n_out, 0.1f);
            CHECK(llm_linear_forward(context, y[at], x, w, x, 150, 140, 290) == LLM_OK);
            CHECK(llm_linear_backward(context, dx[at], dw[at], db[at], dy, x, w, 150, 140, 290) ==
                  LLM_OK);
            if (i) {
                CHECK_MSG(
                    same_bits(y[0], y[1], rows * n_out) && same_bits(dx[0], dx[1], rows * n_in) &&
                        same_bits(dw[0], dw[1], n_out * n_in) && same_bits(db[0], db[1], n_out),
                    "%s: %d threads differ from one", context->kernels->name, threads[i - 1]);
                drop(y[1]); drop(dx[1]); drop(dw[1]); drop(db[1]);
            }
            llm_context_free(context);
        }
        drop(y[0]); drop(dx[0]); drop(dw[0]); drop(db[0]);
    }
    drop(x); drop(w); drop(dy);
}

TEST(linear_with_nothing_to_do) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *y = floats(12), *x = noise(12, 1.0, 1), *d = filled(12, 7.0f);
    size_t i;
    CHECK(llm_linear_forward(context, y, x, x, x, 0, 3, 4) == LLM_OK);
    CHECK(llm_linear_forward(context, y, x, x, x, 3, 4, 0) == LLM_OK);
    CHECK(unwritten(y, 12));
    CHECK(llm_linear_backward(context, d, d, d, x, x, x, 0, 3, 4) == LLM_OK);
    CHECK(llm_linear_backward(context, d, d, d, x, x, x, 3, 0, 0) == LLM_OK);
    CHECK(llm_linear_backward(context, d, d, d, x, x, x, 3, 4, 0) == LLM_OK);
    for (i = 0; i < 12; i++) CHECK(d[i] == 7.0f);
    drop(y); drop(x); drop(d);
    llm_context_free(context);
}

TEST(linear_bad_arguments) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *y = floats(12), *x = noise(12, 1.0, 1);
    CHECK(llm_linear_forward(context, y, x, x, NULL, -1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_forward(context, y, x, x, NULL, 1, -3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_forward(context, y, x, x, NULL, 1, 3, -4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_forward(NULL, y, x, x, NULL, 1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_forward(context, NULL, x, x, NULL, 1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_forward(context, y, NULL, x, NULL, 1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_forward(context, y, x, NULL, NULL, 1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(context, y, y, y, x, x, x, -1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(context, y, y, y, x, x, x, 1, -3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(context, y, y, y, x, x, x, 1, 3, -4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(NULL, y, y, y, x, x, x, 1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(llm_linear_backward(context, y, y, y, NULL, x, x, 1, 3, 4) == LLM_ERR_ARGUMENT);
    CHECK(unwritten(y, 12));
    drop(y); drop(x);
    llm_context_free(context);
}

static void run_gemm(void) {
    RUN(gemm_rows_around_the_tile);
    RUN(gemm_columns_around_the_tile);
    RUN(gemm_depth_around_the_block);
    RUN(gemm_many_blocks);
    RUN(gemm_exact_integers);
    RUN(gemm_without_depth);
    RUN(gemm_without_elements);
    RUN(gemm_not_finite_stays_in_its_place);
    RUN(gemm_large_and_small_values);
    RUN(gemm_threads_give_the_same_bits);
    RUN(gemm_few_rows_are_independent);
    RUN(gemm_batch_equals_products_alone);
    RUN(gemm_few_rows_by_a_wide_weight);
    RUN(gemm_matrix_in_either_layout);
    RUN(linear_against_oracle);
    RUN(linear_skips_what_is_null);
    RUN(linear_threads_give_the_same_bits);
    RUN(linear_with_nothing_to_do);
    RUN(linear_bad_arguments);
}
