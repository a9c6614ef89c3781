/* Cross entropy against an oracle in double precision that follows
 * torch.nn.functional.cross_entropy; the oracle's gradient is checked against central
 * differences. */

/* lse (rows); losses (rows), 0 where ignored; the result is what the reduction makes of them.
 * With LLM_REDUCTION_NONE, the result is the sum of dloss losses, so that its gradient is that
 * of the backward with these dloss. */
typedef struct loss_case {
    int rows, V;
    double smoothing, *x, *losses, *lse, *dx;
    const double *dloss;               /* (rows) with LLM_REDUCTION_NONE, one otherwise; NULL = 1 */
    const int32_t *targets;
    llm_reduction reduction;
} loss_case;

static int loss_valid(const loss_case *c) {
    int r, valid = 0;
    for (r = 0; r < c->rows; r++) valid += c->targets[r] != -100;
    return valid;
}
static double loss_value(void *argument) {
    const loss_case *c = (const loss_case *)argument;
    const int valid = loss_valid(c);
    double sum = 0.0;
    int r, i;
    for (r = 0; r < c->rows; r++) {
        const double *x = c->x + (size_t)r * (size_t)c->V;
        double most = x[0], total = 0.0, mean = 0.0;
        for (i = 1; i < c->V; i++) most = fmax(most, x[i]);
        for (i = 0; i < c->V; i++) {
            total += exp(x[i] - most);
            mean += x[i] / c->V;
        }
        c->lse[r] = most + log(total);
        c->losses[r] = 0.0;
        if (c->targets[r] == -100) continue;
        c->losses[r] = (1.0 - c->smoothing) * (c->lse[r] - x[c->targets[r]]);
        if (c->smoothing > 0.0) c->losses[r] += c->smoothing * (c->lse[r] - mean);
        sum += c->losses[r] * (c->reduction == LLM_REDUCTION_NONE && c->dloss ? c->dloss[r] : 1.0);
    }
    return c->reduction == LLM_REDUCTION_MEAN ? (valid ? sum / valid : 0.0) : sum;
}
static void loss_gradient(loss_case *c) {
    const int valid = loss_valid(c);
    int r, i;
    for (r = 0; r < c->rows; r++) {
        double g = c->dloss ? c->dloss[c->reduction == LLM_REDUCTION_NONE ? r : 0] : 1.0;
        if (c->targets[r] == -100) continue;
        if (c->reduction == LLM_REDUCTION_MEAN) g /= valid;
        for (i = 0; i < c->V; i++) {
            const size_t at = (size_t)r * (size_t)c->V + (size_t)i;
            const double wanted =
                (i == c->targets[r] ? 1.0 - c->smoothing : 0.0) + c->smoothing / c->V;
            c->dx[at] += g * (exp(c->x[at] - c->lse[r]) - wanted);
        }
    }
}

static const llm_reduction reductions[] = {LLM_REDUCTION_MEAN, LLM_REDUCTION_SUM,
                                           LLM_REDUCTION_NONE};

/* targets at the ends, ignored ones, the rest at random; kind 1: none ignored, 2: all */
static void loss_targets(int32_t *targets, int rows, int V, int kind, uint64_t seed) {
    int r;
    for (r = 0; r < rows; r++) {
        const uint64_t random = plain_random(&seed);
        targets[r] = r % 5 == 0 ? 0 : r % 5 == 1 ? V - 1 : (int32_t)(random % (uint64_t)V);
        if (kind == 2 || (kind == 0 && r % 3 == 2)) targets[r] = -100;
    }
}
/* size: of the logits */
static void loss_check(int rows, int V, double size, float smoothing, int kind,
                       llm_reduction reduction) {
    const size_t n = (size_t)rows * (size_t)V, r_n = (size_t)rows;
    float *x = noise(n, size, (uint64_t)(rows + V)), *dloss = noise(r_n, 1.0, 8);
    int32_t *targets = (int32_t *)plain_alloc(r_n * sizeof(int32_t));
    double *dloss_wide = widened(dloss, r_n), want, lse_size, error;
    loss_case c;
    int t, given;
    loss_targets(targets, rows, V, kind, 17);
    memset(&c, 0, sizeof c);
    c.rows = rows;
    c.V = V;
    c.smoothing = (double)smoothing;
    c.targets = targets;
    c.reduction = reduction;
    c.x = widened(x, n); c.losses = doubles(r_n); c.lse = doubles(r_n); c.dx = doubles(n);
    want = loss_value(&c);
    lse_size = largest(c.lse, r_n) + size;
    error = 1e-6 * (1.0 + largest(c.losses, r_n)) + 1e-7 * (double)smoothing * lse_size;
    for (given = 0; given < 2; given++) {          /* with and without dloss */
        size_t i;
        c.dloss = given ? dloss_wide : NULL;
        for (i = 0; i < n; i++) c.dx[i] = 0.5;
        loss_gradient(&c);
        for (t = 0; kernels_at(t); t++) {
            llm_context *context = context_at(t, 1);
            float loss = -7.0f, *losses = floats(r_n), *lse = floats(r_n), *dx = filled(n, 0.5f);
            llm_error err;
            char label[160];
            snprintf(label, sizeof label,
                     "%s, %d rows of %d, logits %g, smoothing %g, targets %d, reduction %d",
                     context->kernels->name, rows, V, size, (double)smoothing, kind,
                     (int)reduction);
            err.message[0] = 0;
            CHECK_MSG(llm_cross_entropy_forward(
                          context, reduction == LLM_REDUCTION_NONE ? NULL : &loss, losses, lse, x,
                          targets, rows, V, smoothing, reduction, &err) == LLM_OK,
                      "%s: %s", label, err.message);
            CHECK_CLOSE(losses, c.losses, r_n, error, 0.0, label);
            for (i = 0; i < r_n; i++)  /* of an ignored row, it may be anything */
                CHECK_MSG(targets[i] == -100 ||
                              fabs((double)lse[i] - c.lse[i]) <= 1e-6 + 2e-7 * lse_size,
                          "%s: lse %g, not %g", label, (double)lse[i], c.lse[i]);
            if (reduction == LLM_REDUCTION_NONE) CHECK(loss == -7.0f);
            else
                CHECK_MSG(fabs((double)loss - want) <=
                              error * (reduction == LLM_REDUCTION_SUM ? rows : 1),
                          "%s: loss %.9g, not %.9g", label, (double)loss, want);
            CHECK(llm_cross_entropy_backward(context, dx, given ? dloss : NULL, lse, x, targets,
                                             rows, V, smoothing, reduction, &err) == LLM_OK);
            CHECK_CLOSE(dx, c.dx, n, 4.0 * (1e-6 + 1.5e-7 * lse_size), 0.0,
                        label); /* exp(x - lse), dloss to 3.5 */
            drop(losses); drop(lse); drop(dx);
            llm_context_free(context);
        }
    }
    free(targets); free(dloss_wide); free(c.x); free(c.losses); free(c.lse); free(c.dx);
    drop(x); drop(dloss);
}

TEST(loss_oracle_by_central_differences) {
    static const double dloss[] = {0.7, -1.3, 2.0, 0.1};
    static const int32_t targets[] = {2, -100, 0, 4};
    float *x = noise(20, 1.0, 1);
    int i, s, given;
    for (i = 0; i < 3; i++)
        for (s = 0; s < 2; s++)
            for (given = 0; given < (reductions[i] == LLM_REDUCTION_NONE ? 2 : 1); given++) {
                loss_case c;
                memset(&c, 0, sizeof c);
                c.rows = 4;
                c.V = 5;
                c.smoothing = s ? 0.2 : 0.0;
                c.targets = targets;
                c.reduction = reductions[i];
                c.x = widened(x, 20); c.losses = doubles(4); c.lse = doubles(4); c.dx = doubles(20);
                c.dloss = given ? dloss : NULL;
                loss_value(&c);
                loss_gradient(&c);
                check_slopes(loss_value, &c, c.x, c.dx, 20, "cross entropy");
                free(c.x); free(c.losses); free(c.lse); free(c.dx);
            }
    drop(x);
}

TEST(loss_against_oracle) {
    static const int rows[] = {1, 3, 8, 9, 20},
                     vocabs[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 35, 511, 512, 513, 1100};
    static const float smoothings[] = {0.0f, 0.1f, 0.9f};
    int i, j, k = 0;
    for (i = 0; i < 5; i++)
        for (j = 0; j < 14; j++, k++) {
            loss_check(rows[i], vocabs[j], 1.0, smoothings[k % 3], k % 2, reductions[k / 3 % 3]);
            loss_check(rows[i], vocabs[j], 5.0, smoothings[(k + 1) % 3], 1 - k % 2,
                       reductions[(k / 3 + 1) % 3]);
        }
}
TEST(loss_of_a_whole_vocabulary) {
    loss_check(1, 50257, 3.0, 0.0f, 1, LLM_REDUCTION_MEAN);
    loss_check(2, 50257, 3.0, 0.1f, 1, LLM_REDUCTION_SUM);
}
TEST(loss_of_large_logits) {
    int i;
    for (i = 0; i < 3; i++) {
        loss_check(9, 33, 1e4, 0.0f, 0, reductions[i]);
        loss_check(9, 33, 1e4, 0.1f, 0, reductions[i]);
        loss_check(4, 600, 1e3, 0.3f, 1, reductions[i]);
    }
}
TEST(loss_without_a_valid_target) {
    int i;
    for (i = 0; i < 3; i++) {
        loss_check(1, 7, 1.0, 0.0f, 2, reductions[i]);
        loss_check(11, 20, 1.0, 0.1f, 2, reductions[i]);
    }
}

/* known without an oracle: equal logits give log V; a sure and right answer 0; a sure and wrong
 * one the gap */
TEST(loss_known_values) {
    int t, V;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (V = 1; V < 70; V++) {
            float *x = filled((size_t)V, -3.0f), *dx = filled((size_t)V, 0.0f), loss, lse;
            int32_t target = V / 2;
            int i, wrong = 0;
            CHECK(llm_cross_entropy_forward(context, &loss, NULL, &lse, x, &target, 1, V, 0.0f,
                                            LLM_REDUCTION_MEAN, NULL) == LLM_OK);
            CHECK_MSG(fabs((double)loss - log((double)V)) <= 1e-6, "%s: V %d, %g",
                      context->kernels->name, V, (double)loss);
            CHECK(llm_cross_entropy_backward(context, dx, NULL, &lse, x, &target, 1, V, 0.0f,
                                             LLM_REDUCTION_MEAN, NULL) == LLM_OK);
            for (i = 0; i < V; i++)
                wrong += !(fabs((double)dx[i] - (1.0 / V - (i == target))) < 1e-6);
            CHECK_MSG(!wrong, "%s: V %d, %d derivatives", context->kernels->name, V, wrong);
            x[target] = 1e4f;
            CHECK(llm_cross_entropy_forward(context, &loss, NULL, NULL, x, &target, 1, V, 0.0f,
                                            LLM_REDUCTION_SUM, NULL) == LLM_OK);
            CHECK(loss == 0.0f);
            if (V > 1) {
                target = V - 1 - (V / 2 == V - 1);
                CHECK(llm_cross_entropy_forward(context, &loss, NULL, NULL, x, &target, 1, V, 0.0f,
                                                LLM_REDUCTION_SUM, NULL) == LLM_OK);
                CHECK_MSG(loss == 10003.0f, "%s: V %d, %g", context->kernels->name, V,
                          (double)loss);
            }
            if (V > 2) {               /* what is masked by -infinity has no part in it */
                for (i = 0; i < V; i++) x[i] = i < 2 ? 0.5f : -INFINITY;
                memset(dx, 0, (size_t)V * sizeof(float));
                target = 1;
                CHECK(llm_cross_entropy_forward(context, &loss, NULL, &lse, x, &target, 1, V, 0.0f,
                                                LLM_REDUCTION_MEAN, NULL) == LLM_OK);
                CHECK(fabs((double)loss - 0.69314718056) < 1e-6);
                CHECK(llm_cross_entropy_backward(context, dx, NULL, &lse, x, &target, 1, V, 0.0f,
                                                 LLM_REDUCTION_MEAN, NULL) == LLM_OK);
                for (i = 2, wrong = 0; i < V; i++) wrong += dx[i] != 0.0f;
                CHECK(!wrong && fabs((double)dx[0] - 0.5) < 1e-6 &&
                      fabs((double)dx[1] + 0.5) < 1e-6);
            }
            drop(x); drop(dx);
        }
        llm_context_free(context);
    }
}

TEST(loss_nan_is_seen) {
    int t, i;
    for (t = 0; kernels_at(t); t++) {
        llm_context *context = context_at(t, 1);
        for (i = 0; i < 35; i++) {
            float *x = noise(3 * 35, 1.0, 1), losses[3], loss;
            int32_t targets[3] = {1, 2, 3};
            x[35 + i] = NAN;
            CHECK(llm_cross_entropy_forward(context, &loss, losses, NULL, x, targets, 3, 35, 0.0f,
                                            LLM_REDUCTION_MEAN, NULL) == LLM_OK);
            CHECK(loss != loss && losses[1] != losses[1] && losses[0] == losses[0] &&
                  losses[2] == losses[2]);
            targets[1] = LLM_IGNORE_INDEX;         /* whose loss is 0, NaN or not */
            CHECK(llm_cross_entropy_forward(context, &loss, losses, NULL, x, targets, 3, 35, 0.0f,
                                            LLM_REDUCTION_MEAN, NULL) == LLM_OK);
            CHECK(loss == loss && losses[1] == 0.0f);
            drop(x);
        }
        llm_context_free(context);
    }
}

TEST(loss_what_is_asked_for) {
    const size_t rows = 13, V = 37;
    float *x = noise(rows * V, 1.0, 1), *before = copied(x, rows * V), *losses = floats(rows),
          *lse = floats(rows);
    float *losses2 = floats(rows), *lse2 = floats(rows), loss, loss2;
    int32_t targets[13];
    llm_context *context = llm_context_create(1, NULL, NULL);
    int mask, i;
    loss_targets(targets, 13, 37, 0, 1);
    for (i = 0; i < 3; i++) {
        CHECK(llm_cross_entropy_forward(context, &loss, losses, lse, x, targets, 13, 37, 0.1f,
                                        reductions[i], NULL) == LLM_OK);
        for (mask = 0; mask < 4; mask++) {
            CHECK(llm_cross_entropy_forward(context, &loss2, mask & 1 ? losses2 : NULL,
                                            mask & 2 ? lse2 : NULL, x, targets, 13, 37, 0.1f,
                                            reductions[i], NULL) == LLM_OK);
            CHECK(loss2 == loss || reductions[i] == LLM_REDUCTION_NONE);
            CHECK(!(mask & 1) || same_bits(losses, losses2, rows));
            CHECK(!(mask & 2) || same_bits(lse, lse2, rows));
        }
    }
    CHECK(same_bits(x, before, rows * V));
    drop(x); drop(before); drop(losses); drop(lse); drop(losses2); drop(lse2);
    llm_context_free(context);
}

TEST(loss_refuses_bad_targets) {
    static const int32_t bad[] = {-1, -99, -101, 37, 38, 1000000, INT32_MAX, INT32_MIN};
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *x = noise(10 * 37, 1.0, 1), *losses = floats(10), *lse = floats(10),
          *dx = floats(10 * 37), loss = -7.0f;
    llm_error err;
    int i, at;
    for (i = 0; i < 8; i++)
        for (at = 0; at < 10; at += 3) {
            int32_t targets[10];
            char value[32];
            loss_targets(targets, 10, 37, 0, 1);
            targets[at] = bad[i];
            snprintf(value, sizeof value, "%ld", (long)bad[i]);
            REFUSED(LLM_ERR_ARGUMENT,
                    llm_cross_entropy_forward(context, &loss, losses, lse, x, targets, 10, 37, 0.0f,
                                              LLM_REDUCTION_MEAN, &err), value, "37");
            REFUSED(LLM_ERR_ARGUMENT,
                    llm_cross_entropy_backward(context, dx, NULL, x, x, targets, 10, 37, 0.0f,
                                               LLM_REDUCTION_MEAN, &err), value, "37");
            CHECK(llm_cross_entropy_forward(context, &loss, losses, lse, x, targets, 10, 37, 0.0f,
                                            LLM_REDUCTION_MEAN, NULL) == LLM_ERR_ARGUMENT);
            CHECK(loss == -7.0f && unwritten(losses, 10) && unwritten(lse, 10) &&
                  unwritten(dx, 10 * 37));
        }
    drop(x); drop(losses); drop(lse); drop(dx);
    llm_context_free(context);
}
static void loss_refused(llm_context *context, int rows, int V, float smoothing, const char *word) {
    float *x = noise(12, 1.0, 1), *y = floats(12), loss = -7.0f;
    const int32_t targets[3] = {0, 1, 2};
    llm_error err;
    REFUSED(LLM_ERR_ARGUMENT,
            llm_cross_entropy_forward(context, &loss, y, y, x, targets, rows, V, smoothing,
                                      LLM_REDUCTION_MEAN, &err), word);
    REFUSED(LLM_ERR_ARGUMENT,
            llm_cross_entropy_backward(context, y, NULL, x, x, targets, rows, V, smoothing,
                                       LLM_REDUCTION_MEAN, &err), word);
    CHECK(loss == -7.0f && unwritten(y, 12));
    drop(x); drop(y);
}
TEST(loss_bad_arguments) {
    llm_context *context = llm_context_create(1, NULL, NULL);
    float *x = noise(12, 1.0, 1), *y = floats(12), loss = -7.0f;
    const int32_t targets[3] = {0, 1, 2};
    loss_refused(context, -3, 4, 0.0f, "-3");
    loss_refused(context, 3, -4, 0.0f, "-4");
    loss_refused(context, 3, 4, -0.25f, "-0.25");
    loss_refused(context, 3, 4, 1.0f, "1");
    loss_refused(context, 3, 4, 1.5f, "1.5");
    loss_refused(context, 3, 4, NAN, "nan");
    loss_refused(NULL, 3, 4, 0.0f, "NULL");
    CHECK(llm_cross_entropy_forward(context, NULL, y, y, x, targets, 3, 4, 0.0f, LLM_REDUCTION_MEAN,
                                    NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_forward(context, NULL, y, y, x, targets, 3, 4, 0.0f, LLM_REDUCTION_SUM,
                                    NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_forward(context, &loss, y, y, NULL, targets, 3, 4, 0.0f,
                                    LLM_REDUCTION_SUM, NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_forward(context, &loss, y, y, x, NULL, 3, 4, 0.0f, LLM_REDUCTION_SUM,
                                    NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_backward(context, NULL, NULL, x, x, targets, 3, 4, 0.0f,
                                     LLM_REDUCTION_SUM, NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_backward(context, y, NULL, NULL, x, targets, 3, 4, 0.0f,
                                     LLM_REDUCTION_SUM, NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_backward(context, y, NULL, x, NULL, targets, 3, 4, 0.0f,
                                     LLM_REDUCTION_SUM, NULL) == LLM_ERR_ARGUMENT);
    CHECK(llm_cross_entropy_backward(context, y, NULL, x, x, NULL, 3, 4, 0.0f, LLM_REDUCTION_SUM,
                                     NULL) == LLM_ERR_ARGUMENT);
    CHECK(unwritten(y, 12) && loss == -7.0f);
    CHECK(llm_cross_entropy_backward(context, y, NULL, x, x, targets, 0, 4, 0.0f,
                                     LLM_REDUCTION_MEAN, NULL) == LLM_OK);
    CHECK(llm_cross_entropy_forward(context, &loss, y, y, x, targets, 0, 4, 0.0f,
                                    LLM_REDUCTION_MEAN, NULL) == LLM_OK);
    CHECK(unwritten(y, 12) && loss == 0.0f);       /* no row: no valid target */
    drop(x); drop(y);
    llm_context_free(context);
}
TEST(loss_out_of_memory) {
    float *x = noise(3000, 1.0, 1), *losses = floats(1000), loss = -7.0f;
    int32_t targets[1000];
    llm_context *context;
    llm_error err;
    heap h;
    heap_init(&h);
    loss_targets(targets, 1000, 3, 0, 1);
    context = llm_context_create(1, &h.allocator, &err);
    CHECK(context != NULL);
    if (context) {
        llm_result result;
        h.fail_at = h.calls;
        memset(&err, 0, sizeof err);
        result = llm_cross_entropy_forward(context, &loss, losses, NULL, x, targets, 1000, 3, 0.0f,
                                           LLM_REDUCTION_MEAN, &err);
        CHECK(result == LLM_OK || (result == LLM_ERR_MEMORY && err.code == LLM_ERR_MEMORY &&
                                   loss == -7.0f && unwritten(losses, 1000)));
        CHECK(llm_cross_entropy_forward(context, &loss, NULL, NULL, x, targets, 1000, 3, 0.0f,
                                        LLM_REDUCTION_MEAN, &err) == LLM_OK);
        CHECK(loss > 0.0f);
        llm_context_free(context);
    }
    CHECK(h.live == 0 && h.wrong == 0);
    drop(x); drop(losses);
}

TEST(loss_threads_give_the_same_bits) {
    static const int threads[] = {2, 3, 5};
    const size_t rows = 100, V = 1003;
    float *x = noise(rows * V, 2.0, 1);
    int32_t targets[100];
    int t, i, j;
    loss_targets(targets, 100, 1003, 0, 1);
    for (t = 0; kernels_at(t); t++)
        for (j = 0; j < 3; j++) {
            float *losses[2], *lse[2], *dx[2], loss[2] = {0.0f, 0.0f};
            for (i = 0; i < 4; i++) {
                llm_context *context = context_at(t, i ? threads[i - 1] : 1);
                const int at = i > 0;
                losses[at] = floats(rows); lse[at] = floats(rows); dx[at] = filled(rows * V, 0.1f);
                CHECK(llm_cross_entropy_forward(context, &loss[at], losses[at], lse[at], x, targets,
                                                100, 1003, 0.1f, reductions[j], NULL) == LLM_OK);
                CHECK(llm_cross_entropy_backward(context, dx[at], NULL, lse[at], x, targets, 100,
                                                 1003, 0.1f, reductions[j], NULL) == LLM_OK);
                if (at) {
                    CHECK_MSG(same_bits(losses[0], losses[1], rows) &&
                                  same_bits(lse[0], lse[1], rows) &&
                                  same_bits(dx[0], dx[1], rows * V) &&
                                  (loss[0] == loss[1] || reductions[j] == LLM_REDUCTION_NONE),
                              "%s, reduction %d: %d threads differ", context->kernels->name,
                              (int)reductions[j], threads[i - 1]);
                    drop(losses[1]); drop(lse[1]); drop(dx[1]);
                }
                llm_context_free(context);
            }
            drop(losses[0]); drop(lse[0]); drop(dx[0]);
        }
    drop(x);
}

static void run_loss(void) {
    RUN(loss_oracle_by_central_differences);
    RUN(loss_against_oracle);
    RUN(loss_of_a_whole_vocabulary);
    RUN(loss_of_large_logits);
    RUN(loss_without_a_valid_target);
    RUN(loss_known_values);
    RUN(loss_nan_is_seen);
    RUN(loss_what_is_asked_for);
    RUN(loss_refuses_bad_targets);
    RUN(loss_bad_arguments);
    RUN(loss_out_of_memory);
    RUN(loss_threads_give_the_same_bits);
}
