/* Values of every type: what a block means, products with weights that are not f32, on every
 * instruction set; models of such weights. */

/* ---- blocks by hand: from GGUF's definition, in double --------------------------------------- */
static double f16_by_hand(const unsigned char *at) {
    const unsigned bits = at[0] | (unsigned)at[1] << 8, exponent = bits >> 10 & 31;
    const double fraction = (double)(bits & 1023) / 1024.0;
    const double value =
        exponent ? ldexp(1.0 + fraction, (int)exponent - 15) : ldexp(fraction, -14);
    return bits & 0x8000 ? -value : value;
}
/* value i of the row of blocks that begins at b */
static double block_by_hand(llm_dtype type, const unsigned char *b, size_t i) {
    const size_t at = i / llmi_types[type].block, j = i % llmi_types[type].block;
    const unsigned char *k, *s;
    int q, scale, least;
    b += at * llmi_types[type].bytes;
    switch (type) {
        case LLM_Q8_0: return f16_by_hand(b) * (b[2 + j] < 128 ? b[2 + j] : b[2 + j] - 256);
        case LLM_Q4_0: return f16_by_hand(b) * ((b[2 + j % 16] >> (j < 16 ? 0 : 4) & 15) - 8);
        case LLM_Q4_1:
            return f16_by_hand(b) * (b[4 + j % 16] >> (j < 16 ? 0 : 4) & 15) + f16_by_hand(b + 2);
        case LLM_Q5_0:
            return f16_by_hand(b) * ((b[6 + j % 16] >> (j < 16 ? 0 : 4) & 15) +
                                     16 * (b[2 + j / 8] >> j % 8 & 1) - 16);
        case LLM_Q5_1:
            return f16_by_hand(b) * ((b[8 + j % 16] >> (j < 16 ? 0 : 4) & 15) +
                                     16 * (b[4 + j / 8] >> j % 8 & 1)) +
                   f16_by_hand(b + 2);
        case LLM_Q4_K:
        case LLM_Q5_K:
            s = b + 4;
            k = b + (type == LLM_Q4_K ? 16 : 48) + j / 64 * 32;
            q = k[j % 32] >> (j % 64 < 32 ? 0 : 4) & 15;
            if (type == LLM_Q5_K) q += 16 * (b[16 + j % 32] >> j / 32 & 1);
            if (j < 128) {
                scale = s[j / 32] & 63;
                least = s[j / 32 + 4] & 63;
            } else {
                scale = (s[j / 32 + 4] & 15) + 16 * (s[j / 32 - 4] >> 6);
                least = (s[j / 32 + 4] >> 4) + 16 * (s[j / 32] >> 6);
            }
            return f16_by_hand(b) * scale * q - f16_by_hand(b + 2) * least;
        case LLM_Q6_K:
            q = (b[j / 128 * 64 + j % 64] >> (j % 128 < 64 ? 0 : 4) & 15) +
                16 * (b[128 + j / 128 * 32 + j % 32] >> j % 128 / 32 * 2 & 3) - 32;
            scale = b[192 + j / 16] < 128 ? b[192 + j / 16] : b[192 + j / 16] - 256;
            return f16_by_hand(b + 208) * scale * q;
        default: return NAN;
    }
}
/* a weight of any type from noise: bytes as they fall, but sensible scales */
static unsigned char *typed_noise(llm_dtype type, size_t n, uint64_t seed) {
    const size_t size = llmi_dtype_bytes(type, n);
    unsigned char *bytes = (unsigned char *)plain_alloc(size);
    uint64_t state = seed;
    size_t i, j;
    for (i = 0; i < size; i++) bytes[i] = (unsigned char)(plain_random(&state) >> 33);
    for (i = 0; i < n / llmi_types[type].block; i++) {
        unsigned char *b = bytes + i * llmi_types[type].bytes;
        const size_t d = type == LLM_Q6_K ? 208 : 0;
        if (type == LLM_F32) b[3] = (unsigned char)(0x3d + (b[3] & 0x81));
        if (type == LLM_F16) b[1] = (unsigned char)(0x28 + (b[1] & 0x87));   /* about 0.03 to 4 */
        if (type == LLM_BF16) b[1] = (unsigned char)(0x3c + (b[1] & 0x81));
        if (type == LLM_F8_E4M3 && (b[0] & 127) == 127) b[0] = 3;
        for (j = 0; llmi_dtype_is_blocks(type) && j < 2; j++)
            if (j == 0 || (type != LLM_Q8_0 && type != LLM_Q4_0 && type != LLM_Q5_0 &&
                           type != LLM_Q6_K))
                b[d + 2 * j + 1] = (unsigned char)(0x1c + (b[d + 2 * j + 1] & 0x83));
    }
    return bytes;
}

TEST(types_names_and_sizes) {
    static const struct { llm_dtype type; const char *name; size_t block, bytes; } types[] = {
        {LLM_F32, "F32", 1, 4},      {LLM_F16, "F16", 1, 2},      {LLM_BF16, "BF16", 1, 2},
        {LLM_F8_E4M3, "F8_E4M3", 1, 1}, {LLM_Q8_0, "Q8_0", 32, 34}, {LLM_Q4_0, "Q4_0", 32, 18},
        {LLM_Q4_1, "Q4_1", 32, 20},  {LLM_Q5_0, "Q5_0", 32, 22},  {LLM_Q5_1, "Q5_1", 32, 24},
        {LLM_Q4_K, "Q4_K", 256, 144}, {LLM_Q5_K, "Q5_K", 256, 176}, {LLM_Q6_K, "Q6_K", 256, 210},
        {LLM_I32, "I32", 1, 4}};
    llm_error err;
    float x[256] = {0};
    unsigned char b[1024];
    size_t i;
    for (i = 0; i < LLMI_COUNT(types); i++) {
        CHECK(!strcmp(llm_dtype_name(types[i].type), types[i].name));
        CHECK(llm_dtype_size(types[i].type, 768) == 768 / types[i].block * types[i].bytes);
        CHECK(llm_dtype_size(types[i].type, 33) == (types[i].block == 1 ? 33 * types[i].bytes : 0));
        CHECK(llm_dtype_size(types[i].type, 0) == 0);
    }
    CHECK(llm_dtype_name((llm_dtype)-1) == NULL && llm_dtype_name((llm_dtype)14) == NULL);
    CHECK(llm_dtype_size(LLM_DTYPE_DEFAULT, 32) == 0 && llm_dtype_size((llm_dtype)99, 32) == 0);
    CHECK(llm_dtype_size(LLM_F32, SIZE_MAX / 2) == SIZE_MAX);
    REFUSED(llm_dtype_decode(NULL, b, LLM_Q4_0, 32, &err), LLM_ERR_ARGUMENT, "NULL");
    REFUSED(llm_dtype_encode(b, LLM_Q4_0, NULL, 32, &err), LLM_ERR_ARGUMENT, "NULL");
    REFUSED(llm_dtype_decode(x, b, LLM_I32, 32, &err), LLM_ERR_ARGUMENT, "I32");
    REFUSED(llm_dtype_decode(x, b, LLM_DTYPE_DEFAULT, 32, &err), LLM_ERR_ARGUMENT, "dtype");
    REFUSED(llm_dtype_encode(b, (llm_dtype)77, x, 32, &err), LLM_ERR_ARGUMENT, "dtype", "77");
    REFUSED(llm_dtype_encode(b, LLM_Q4_K, x, 224, &err), LLM_ERR_ARGUMENT, "224", "256", "Q4_K");
}

/* every pass gives the same bits, which are the definition's, rounded once */
TEST(types_decode) {
    const size_t n = 5 * 256;
    int type, t;
    for (type = LLM_Q8_0; type <= LLM_Q6_K; type++) {
        unsigned char *bytes = typed_noise((llm_dtype)type, n, 70 + (uint64_t)type);
        float *got = floats(n), *want = floats(n);
        const size_t cut = llmi_types[type].block == 32 ? 3 * 32 : 0;
        size_t i;
        for (i = 0; i < n; i++) want[i] = (float)block_by_hand((llm_dtype)type, bytes, i);
        CHECK(llm_dtype_decode(got, bytes, (llm_dtype)type, n, NULL) == LLM_OK);
        for (i = 0; i < n && got[i] == want[i]; i++) {}    /* 0 may be -0 */
        CHECK_MSG(i == n, "%s", llm_dtype_name((llm_dtype)type));
        for (t = 0; kernels_at(t); t++) {
            memset(got, 0, n * sizeof *got);
            kernels_at(t)->decode((llm_dtype)type, got, bytes, n - cut);
            for (i = 0; i < n - cut && got[i] == want[i]; i++) {}
            CHECK_MSG(i == n - cut, "%s, %s: value %lu is %g, not %g", kernels_at(t)->name,
                      llm_dtype_name((llm_dtype)type), (unsigned long)i, (double)got[i % n],
                      (double)want[i % n]);
        }
        free(bytes);
        drop(got); drop(want);
    }
}
/* Values of many kinds: noise around 0 and far from it, steps that a line hits, zeros, very large
 * and very small ones, what is not finite. */
static float *encoder_values(size_t n) {
    float *x = noise(n, 0.02, 31);
    size_t i;
    for (i = 0; i < n; i++) {
        const float other = x[(i * 7 + 5) % n];
        switch (i / 512 % 8) {
            case 1: x[i] += 1.0f; break;
            case 2: x[i] = 0.25f * (float)((int)(i * 5 % 31) - 15); break;
            case 3: x[i] = i % 9 ? 0.0f : other; break;
            case 4: x[i] = x[i] > 0.0f ? 3e38f : -2e38f; break;
            case 5: x[i] = 1e-44f * (float)(i % 5); break;
            case 6: x[i] = i % 100 ? x[i] : i % 200 ? HUGE_VALF : NAN; break;
            case 7: x[i] = -fabsf(x[i]); break;
            default: break;
        }
    }
    return x;
}
/* squared error of the plainest encoder of a type's thirty-twos or sixteens, d and m being exact:
 * the value farthest from 0 on the last whole number, or the least and the largest on both ends */
static double plain_error(llm_dtype type, const float *x, size_t n) {
    const int high = type == LLM_Q8_0 ? 127 : type == LLM_Q4_0 ? 7 :
                     type == LLM_Q4_1 || type == LLM_Q4_K || type == LLM_Q5_0 ? 15 : 31;
    const int has_least =
        type == LLM_Q4_1 || type == LLM_Q5_1 || type == LLM_Q4_K || type == LLM_Q5_K;
    double from = 0.0, to = 0.0, scale, error = 0.0;
    size_t i;
    for (i = 0; i < n; i++) {
        from = fmin(from, (double)x[i]);
        to = fmax(to, (double)x[i]);
    }
    scale = has_least ? (to - from) / high : fmax(-from, to) / high;
    for (i = 0; i < n && scale > 0.0; i++) {
        const double least = has_least ? from : 0.0;
        const double v = scale * nearbyint(((double)x[i] - least) / scale) + least;
        error += (v - (double)x[i]) * (v - (double)x[i]);
    }
    return error;
}
/* every pass gives the same bytes, however many blocks there are, and better ones than the plain */
TEST(types_encode) {
    const size_t n = 2 * 4096 + 256;
    float *x = encoder_values(n), *got = floats(n);
    unsigned char *want = (unsigned char *)plain_alloc(4 * n), *bytes;
    int type, t;
    bytes = (unsigned char *)plain_alloc(4 * n);
    for (type = LLM_Q8_0; type <= LLM_Q6_K; type++) {
        const size_t size = llm_dtype_size((llm_dtype)type, n), part = type == LLM_Q6_K ? 16 : 32;
        size_t at, i, count;
        double plain = 0.0, error = 0.0;
        CHECK(llm_dtype_encode(want, (llm_dtype)type, x, n, NULL) == LLM_OK);
        for (t = 0; kernels_at(t); t++)
            for (at = 0, count = 256; at < n; at += count, count = llmi_min(count + 256, n - at)) {
                const size_t first = llm_dtype_size((llm_dtype)type, at);
                memset(bytes, 0xee, size);
                llmi_encode(kernels_at(t)->lines_try, (llm_dtype)type, bytes, x + at, count);
                CHECK_MSG(!memcmp(bytes, want + first, llm_dtype_size((llm_dtype)type, count)),
                          "%s, %s: values from %lu on", kernels_at(t)->name,
                          llm_dtype_name((llm_dtype)type), (unsigned long)at);
            }
        CHECK(llm_dtype_decode(got, want, (llm_dtype)type, n, NULL) == LLM_OK);
        for (at = 0; at < 1024; at += part) {
            plain += plain_error((llm_dtype)type, x + at, part);
            for (i = at; i < at + part; i++)
                error += pow((double)got[i] - (double)x[i], 2);
        }
        CHECK_MSG(error < 0.95 * plain, "%s: %g, plain %g", llm_dtype_name((llm_dtype)type), error,
                  plain);
    }
    free(want); free(bytes);
    drop(x); drop(got);
}
TEST(types_f16_bf16_f8_of_all_bits) {
    unsigned char *bytes = (unsigned char *)plain_alloc(2 << 16);
    float *got = floats(1 << 16), *want = floats(1 << 16);
    size_t i;
    int type, t;
    for (i = 0; i < 1 << 16; i++) {
        bytes[2 * i] = (unsigned char)i;
        bytes[2 * i + 1] = (unsigned char)(i >> 8);
    }
    for (type = LLM_F16; type <= LLM_F8_E4M3; type++) {
        const size_t n = type == LLM_F8_E4M3 ? 255 : (1 << 16) - 3;
        if (type == LLM_F8_E4M3)
            for (i = 0; i < n; i++) bytes[i] = (unsigned char)i;
        CHECK(llm_dtype_decode(want, bytes, (llm_dtype)type, n, NULL) == LLM_OK);
        for (i = 0; i < n; i++) {      /* sign, exponent, fraction */
            const unsigned e = type == LLM_F16 ? 5 : type == LLM_BF16 ? 8 : 4,
                           f = type == LLM_F16 ? 10 : type == LLM_BF16 ? 7 : 3;
            const unsigned exponent = (unsigned)(i >> f) & ((1u << e) - 1);
            const unsigned bias = (1u << (e - 1)) - 1;
            const unsigned fraction = (unsigned)i & ((1u << f) - 1);
            const int special = type == LLM_F8_E4M3 ? (i & 127) == 127 : exponent == (1u << e) - 1;
            const double size = ldexp((exponent ? ldexp(1, (int)f) : 0) + fraction,
                                      (int)(exponent ? exponent : 1) - (int)bias - (int)f);
            if (special) {
                CHECK(type != LLM_F8_E4M3 && !fraction ? isinf(want[i]) : isnan(want[i]));
                continue;
            }
            CHECK((double)want[i] == (i >> (e + f) & 1 ? -size : size));
        }
        for (t = 0; kernels_at(t); t++) {
            kernels_at(t)->decode((llm_dtype)type, got, bytes, n);
            for (i = 0; i < n && (got[i] == want[i] || (isnan(got[i]) && isnan(want[i]))); i++) {}
            CHECK_MSG(i == n, "%s, %s: value %lu", kernels_at(t)->name,
                      llm_dtype_name((llm_dtype)type), (unsigned long)i);
        }
    }
    free(bytes);
    drop(got); drop(want);
}

/* ---- products -------------------------------------------------------------------------------- */
typedef struct typed {                 /* y = x W^T */
    llmi_matrix w;
    unsigned char *bytes;
    float *scales, *values, *x, *bias; /* values: W in f32 */
    double *x8;                        /* x as products with blocks take it */
    size_t m, n, k;
} typed;
static typed typed_make(llm_dtype type, size_t m, size_t n, size_t k, uint64_t seed) {
    typed p;
    const size_t group = llmi_types[type].block; /* of x with one scale */
    size_t i, j, across = (k + 127) / 128;
    memset(&p, 0, sizeof p);
    p.m = m; p.n = n; p.k = k;
    p.bytes = typed_noise(type, n * k, seed);
    p.values = floats(n * k);
    llmi_decode(type, p.values, p.bytes, n * k);
    p.w = llmi_matrix_of(NULL, n, k, 0);
    p.w.data = p.bytes;
    p.w.type = type;
    p.w.round_x = 1;
    if (type == LLM_F8_E4M3) {
        p.scales = noise((n + 127) / 128 * across, 0.3, seed + 1);
        p.w.scales = p.scales;
        for (i = 0; i < n; i++)
            for (j = 0; j < k; j++) p.values[i * k + j] *= p.scales[i / 128 * across + j / 128];
    }
    p.x = noise(m * k, 1.0, seed + 2);
    p.bias = noise(n, 1.0, seed + 3);
    p.x8 = doubles(m * k);
    for (i = 0; i < m * k; i++) p.x8[i] = (double)p.x[i];
    for (i = 0; llmi_dtype_is_blocks(type) && i < m * k; i += group) {
        double most = 0.0;
        for (j = i; j < i + group; j++) most = fmax(most, fabs(p.x8[j]));
        for (j = i; j < i + group; j++) p.x8[j] = nearbyint(p.x8[j] / most * 127.0) * most / 127.0;
    }
    return p;
}
static void typed_free(typed *p) {
    free(p->bytes);
    free(p->x8);
    if (p->scales) drop(p->scales);
    drop(p->values); drop(p->x); drop(p->bias);
}
/* of all of y: the largest error in units of the sum of absolute values */
static double typed_error(const typed *p, const float *y, const double *x, const float *before) {
    double worst = 0.0;
    size_t i, j, l;
    for (i = 0; i < p->m; i++)
        for (j = 0; j < p->n; j++) {
            double sum = (double)p->bias[j] + (before ? (double)before[i * p->n + j] : 0.0);
            double size = 1.0;
            for (l = 0; l < p->k; l++) {
                const double v = x[i * p->k + l] * (double)p->values[j * p->k + l];
                sum += v;
                size += fabs(v);
            }
            worst = fmax(worst, fabs((double)y[i * p->n + j] - sum) / size);
            if (y[i * p->n + j] != y[i * p->n + j]) return HUGE_VAL;
        }
    return worst;
}
TEST(types_few_rows) {
    static const size_t sizes[][3] = {{1, 5, 32}, {1, 130, 256}, {2, 67, 288}, {5, 9, 1024},
                                      {16, 70, 512}, {8, 33, 2144}, {3, 1, 1056}};
    static const size_t loose[][3] = {{1, 5, 31}, {2, 67, 131}, {16, 140, 257}, {4, 3, 1}};
    int type, t, s;
    for (type = LLM_F16; type <= LLM_Q6_K; type++)
        for (s = 0; s < 7 + (llmi_types[type].block == 1 ? 4 : 0); s++) {
            const size_t *size = s < 7 ? sizes[s] : loose[s - 7];
            const int accumulate = s % 2;
            typed p;
            float *before, *want = NULL;
            if (size[2] % llmi_types[type].block) continue;
            p = typed_make((llm_dtype)type, size[0], size[1], size[2], 500 + (uint64_t)s);
            before = noise(p.m * p.n, 1.0, 3);
            for (t = 0; kernels_at(t); t++) {
                int threads;
                for (threads = 1; threads <= 3; threads++) {
                    llm_context *context = context_at(t, threads);
                    float *y = copied(before, p.m * p.n), *alone = copied(before, p.m * p.n);
                    size_t i;
                    llmi_matmul(context, y, p.n, p.x, p.w, p.bias, p.m, accumulate);
                    if (threads == 1) {
                        const double error = typed_error(&p, y, p.x8, accumulate ? before : NULL);
                        /* a value of x between two whole numbers may go to either */
                        CHECK_MSG(error <= product_error(p.k) +
                                               (llmi_dtype_is_blocks((llm_dtype)type) ? 2e-5 : 0.0),
                                  "%s, %s, m %lu n %lu k %lu: %g", kernels_at(t)->name,
                                  llm_dtype_name((llm_dtype)type), (unsigned long)p.m,
                                  (unsigned long)p.n, (unsigned long)p.k, error);
                        want = copied(y, p.m * p.n);
                    } else CHECK(same_bits(y, want, p.m * p.n));
                    for (i = 0; i < p.m; i++)  /* a row alone gets the same */
                        llmi_matmul(context, alone + i * p.n, p.n, p.x + i * p.k, p.w, p.bias, 1,
                                    accumulate);
                    CHECK(same_bits(alone, want, p.m * p.n));
                    drop(y); drop(alone);
                    llm_context_free(context);
                }
                drop(want);
            }
            drop(before);
            typed_free(&p);
        }
}
TEST(types_many_rows) {
    static const size_t sizes[][3] = {{17, 5, 32}, {40, 130, 256}, {33, 67, 800}, {70, 300, 1024},
                                      {18, 33, 2816}};
    int type, t, s;
    for (type = LLM_F16; type <= LLM_Q6_K; type++)
        for (s = 0; s < 5; s++) {
            typed p;
            double *x;
            if (sizes[s][2] % llmi_types[type].block) continue;
            p = typed_make((llm_dtype)type, sizes[s][0], sizes[s][1], sizes[s][2],
                           900 + (uint64_t)s);
            x = widened(p.x, p.m * p.k);
            for (t = 0; kernels_at(t); t++) {
                llm_context *context = context_at(t, 1), *three = context_at(t, 3);
                const int bf16 = kernels_at(t)->tiles[LLM_PRECISION_BF16].value_bytes == 2 &&
                                 type != LLM_F16 && type != LLM_F8_E4M3;
                float *y = floats(p.m * p.n), *again = floats(p.m * p.n);
                double error;
                llmi_matmul(context, y, p.n, p.x, p.w, p.bias, p.m, 0);
                llmi_matmul(three, again, p.n, p.x, p.w, p.bias, p.m, 0);
                CHECK(same_bits(y, again, p.m * p.n));
                error = typed_error(&p, y, x, NULL);
                CHECK_MSG(error <= (bf16 ? 1.0 / 256.0 : product_error(p.k)),
                          "%s, %s, m %lu n %lu k %lu: %g", kernels_at(t)->name,
                          llm_dtype_name((llm_dtype)type), (unsigned long)p.m, (unsigned long)p.n,
                          (unsigned long)p.k, error);
                CHECK(!bf16 || error > product_error(p.k));    /* bf16 is what was used */
                if (type == LLM_BF16) {
                    llmi_matrix exact = p.w;
                    exact.round_x = 0;
                    llmi_matmul(context, y, p.n, p.x, exact, p.bias, p.m, 0);
                    CHECK(typed_error(&p, y, x, NULL) <= product_error(p.k));
                }
                drop(y); drop(again);
                llm_context_free(context);
                llm_context_free(three);
            }
            free(x);
            typed_free(&p);
        }
}
/* rows of a matrix, one row, and products within a task, of a part that begins at any row */
TEST(types_parts_of_a_matrix) {
    int type, t;
    for (type = LLM_F32; type <= LLM_Q6_K; type++) {
        const size_t n = 261, k = 1280, first = 131, count = 70;
        typed p = typed_make((llm_dtype)type, 1, n, k, 40), part = p;
        const llmi_matrix w = llmi_matrix_rows(p.w, first, count);
        float *back = noise(count, 1.0, 9);
        double *sum = doubles(k), *size = doubles(k);
        part.n = count;
        part.values = p.values + first * k;
        part.bias = filled(count, 0.0f);
        for (t = 0; kernels_at(t); t++) {
            const llmi_kernels *kernels = kernels_at(t);
            float *y = floats(count), *z = floats(k), *room = floats(k);
            double worst = 0.0;
            size_t i, j;
            CHECK(same_bits(llmi_matrix_row(kernels, &w, 3, room), part.values + 3 * k, k));
            llmi_matrix_times(kernels, &w, y, p.x);
            CHECK_MSG(typed_error(&part, y, p.x8, NULL) <= product_error(k) + 2e-5, "%s, %s",
                      kernels->name, llm_dtype_name((llm_dtype)type));
            llmi_matrix_times_back(kernels, &w, z, back);
            for (j = 0; j < k; j++) {
                sum[j] = 0.0;
                size[j] = 1.0;
            }
            for (i = 0; i < count; i++)
                for (j = 0; j < k; j++) {
                    const double v = (double)back[i] * (double)part.values[i * k + j];
                    sum[j] += v;
                    size[j] += fabs(v);
                }
            for (j = 0; j < k; j++)
                if (!(fabs((double)z[j] - sum[j]) <= worst * size[j]))
                    worst = fabs((double)z[j] - sum[j]) / size[j];
            CHECK_MSG(worst <= product_error(count), "%s, %s: %g", kernels->name,
                      llm_dtype_name((llm_dtype)type), worst);
            drop(y); drop(z); drop(room);
        }
        free(sum);
        free(size);
        drop(back); drop(part.bias);
        typed_free(&p);
    }
}
/* what is not finite in x stays so: an infinity or a NaN must not become a number */
TEST(types_not_finite) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    int type, t, i;
    for (type = LLM_F16; type <= LLM_Q6_K; type++)
        for (i = 0; i < 3; i++) {
            typed p = typed_make((llm_dtype)type, 2, 7, 512, 77);
            p.x[300] = bad[i];
            for (t = 0; kernels_at(t); t++) {
                llm_context *context = context_at(t, 1);
                float *y = floats(14);
                size_t j;
                llmi_matmul(context, y, 7, p.x, p.w, NULL, 2, 0);
                for (j = 0; j < 7; j++)
                    CHECK(!(y[j] - y[j] == 0.0f) && y[7 + j] - y[7 + j] == 0.0f);
                drop(y);
                llm_context_free(context);
            }
            typed_free(&p);
        }
}

/* a batch of products, as experts are: parts of columns, rows of one A */
TEST(types_batches) {
    int type, t;
    for (type = LLM_F16; type <= LLM_Q6_K; type += 3) {
        typed p[6];
        llmi_gemm g[6];
        float *y[6], *want[6];
        int i, threads;
        for (t = 0; kernels_at(t); t++)
            for (threads = 1; threads <= 3; threads += 2) {
                llm_context *context = context_at(t, threads);
                for (i = 0; i < 6; i++) {
                    p[i] = typed_make((llm_dtype)type, i < 3 ? 3 : 19, 300, 512, 7 + (uint64_t)i);
                    y[i] = floats(p[i].m * 300);
                    want[i] = floats(p[i].m * 300);
                    g[i] = llmi_product(y[i], 300, p[i].x, p[i].w, p[i].bias, p[i].m, 0);
                    llmi_matmul(context, want[i], 300, p[i].x, p[i].w, p[i].bias, p[i].m, 0);
                }
                llmi_gemm_batch(context, g, 6);
                for (i = 0; i < 6; i++) {
                    CHECK_MSG(same_bits(y[i], want[i], p[i].m * 300), "%s, %s, %d",
                              kernels_at(t)->name, llm_dtype_name((llm_dtype)type), i);
                    drop(y[i]); drop(want[i]);
                    typed_free(&p[i]);
                }
                llm_context_free(context);
            }
    }
}

/* ---- caches of other types ------------------------------------------------------------------- */
static llm_session *cache_session(const llm_model *model, llm_dtype type, int sequences,
                                  int threads, int speculate) {
    llm_session_desc d;
    memset(&d, 0, sizeof d);
    d.n_sequences = sequences;
    d.cache_dtype = type;
    d.n_threads = threads;
    d.speculate = speculate;
    return session_of(model, &d);
}
static llm_config cache_config(int arch) {
    llm_config c = small_config(50, 700, 64, 2, 2);
    if (!arch) return c;               /* heads of 32 */
    c = deepseek_config(1, 1, 50, 700, 1);
    c.kv_lora_rank = 32;
    c.qk_rope_head_dim = 32;
    return c;
}
/* Logits of a long prompt, of tokens one by one, and after a rewind are near those of an f32 cache;
 * a batch equals its sequences, threads change nothing, speculation changes no token. */
TEST(types_caches) {
    static const struct { llm_dtype type; double error; } types[] = {
        {LLM_F16, 1e-3}, {LLM_BF16, 1e-2}, {LLM_Q8_0, 2e-2}};
    int arch, t;
    size_t i;
    for (arch = 0; arch < 2; arch++) {
        const llm_config c = cache_config(arch);
        llm_model *model = shaken_model(&c, 5, 1, NULL);
        int32_t tokens[640];
        if (!model) return;
        random_tokens(tokens, 640, 50, 8);
        for (i = 0; i < LLMI_COUNT(types); i++) {
            llm_session *plain = cache_session(model, LLM_F32, 2, 1, 0);
            float want[4][50], got[4][50], first[4][50], batch[2][50];
            llm_session_desc d;
            llm_memory memory;
            int threads, k;
            memset(&d, 0, sizeof d);
            d.n_sequences = 2;
            d.cache_dtype = types[i].type;
            CHECK(llm_session_memory(&c, &d, &memory, NULL) == LLM_OK);
            for (threads = 1; threads <= 3; threads += 2) {
                llm_session *s = cache_session(model, types[i].type, 2, threads, 0);
                if (!s || !plain) return;
                CHECK(memory.cache == llm_session_cache_bytes(s));
                CHECK(llm_session_cache_bytes(s) ==
                      llm_session_cache_bytes(plain) / 4 * llm_dtype_size(types[i].type, 32) / 32);
                for (t = 0; t < 2; t++) {
                    llm_session *of = t ? s : plain;
                    float (*to)[50] = t ? got : want;
                    if (threads > 1 && !t) continue;
                    CHECK(llm_session_eval(of, 0, tokens, 600, to[0], NULL) == LLM_OK);
                    for (k = 0; k < 20; k++)
                        CHECK(llm_session_eval(of, 0, tokens + 600 + k, 1, to[1], NULL) == LLM_OK);
                    CHECK(llm_session_rewind(of, 0, 300, NULL) == LLM_OK);
                    CHECK(llm_session_eval(of, 0, tokens + 9, 40, to[2], NULL) == LLM_OK);
                    CHECK(llm_session_eval(of, 1, tokens, 9, to[3], NULL) == LLM_OK);
                }
                for (k = 0; k < 4; k++) {
                    const double error = relative_error(got[k], want[k], 50);
                    CHECK_MSG(error > 0.0 && error < types[i].error, "%s, arch %d, %d: %g",
                              llm_dtype_name(types[i].type), arch, k, error);
                }
                if (threads > 1) CHECK(same_bits(got[0], first[0], 200));
                memcpy(first, got, sizeof got);
                {                      /* both go on in one call, then alone */
                    const int32_t two[2] = {7, 11};
                    CHECK(llm_session_eval_batch(s, two, batch[0], NULL) == LLM_OK);
                    for (k = 0; k < 2; k++) {
                        const int length = llm_session_length(s, k) - 1;
                        CHECK(llm_session_rewind(s, k, length, NULL) == LLM_OK);
                        CHECK(llm_session_eval(s, k, &two[k], 1, got[k], NULL) == LLM_OK);
                    }
                    CHECK(same_bits(batch[0], got[0], 100));
                }
                llm_session_free(s);
            }
            llm_session_free(plain);
            if (arch) {
                llm_generate_desc g;
                int32_t said[2][40];
                llm_generate_stats stats;
                memset(&g, 0, sizeof g);
                g.max_new_tokens = 40;
                for (t = 0; t < 2; t++) {
                    llm_session *s = cache_session(model, types[i].type, 1, 2, t);
                    CHECK(s != NULL);
                    CHECK(llm_generate(s, tokens, 30, &g, said[t], 40, &stats, NULL) == LLM_OK);
                    llm_session_free(s);
                }
                CHECK(stats.n_generated == 40 && !memcmp(said[0], said[1], sizeof said[0]));
            }
        }
        llm_model_free(model);
    }
}
TEST(types_caches_refused) {
    llm_config c = small_config(50, 16, 12, 2, 3);
    llm_model *model = shaken_model(&c, 5, 1, NULL);
    llm_session_desc d;
    llm_error err;
    memset(&d, 0, sizeof d);
    d.cache_dtype = LLM_Q8_0;          /* heads of 4 */
    CHECK(llm_config_cache_bytes(&c, 0, LLM_Q8_0) == 0);
    NOT_MADE(LLM_ERR_UNSUPPORTED, llm_session_create(model, &d, &err), "cache_dtype");
    d.cache_dtype = LLM_Q4_0;
    NOT_MADE(LLM_ERR_UNSUPPORTED, llm_session_create(model, &d, &err), "cache_dtype");
    llm_model_free(model);
}

static void run_types(void) {
    RUN(types_caches);
    RUN(types_caches_refused);
    RUN(types_names_and_sizes);
    RUN(types_decode);
    RUN(types_encode);
    RUN(types_f16_bf16_f8_of_all_bits);
    RUN(types_few_rows);
    RUN(types_many_rows);
    RUN(types_parts_of_a_matrix);
    RUN(types_not_finite);
    RUN(types_batches);
}
