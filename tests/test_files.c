/* Model directories in and out: >>safetensors >>load >>save. The files are built here, byte by
 * byte; most of them are broken. Every load goes through an allocator that counts. */
#include <locale.h>
#if LLMI_POSIX
  #include <dirent.h>
  #include <signal.h>
  #include <sys/resource.h>
#endif

#define FILES "build/files"            /* directories are made in it, and stay */

/* ---- files and directories ------------------------------------------------------------------- */
static void files_mkdir(const char *path) {
#if LLMI_POSIX
    (void)mkdir(path, 0777);
#elif defined(_WIN32)
    (void)_mkdir(path);
#else
    (void)path;
#endif
}

/* FILES/name, empty of the files that a model has */
static const char *files_directory(const char *name) {
    static char paths[8][256];         /* the last eight stay valid */
    static int next;
    static const char *const old[] = {"config.json", "model.safetensors",
                                      "model.safetensors.index.json", "a.safetensors",
                                      "b.safetensors"};
    char *path = paths[next++ % 8];
    size_t i;
    snprintf(path, sizeof paths[0], "%s/%s", FILES, name);
    files_mkdir("build");
    files_mkdir(FILES);
    files_mkdir(path);
    for (i = 0; i < sizeof old / sizeof old[0]; i++) {
        char file[300];
        snprintf(file, sizeof file, "%s/%s", path, old[i]);
        remove(file);
    }
    return path;
}

static void files_write(const char *directory, const char *name, const void *data, size_t size) {
    char path[512];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "wb");
    CHECK_MSG(file != NULL, "%s cannot be written", path);
    if (!file) return;
    CHECK(fwrite(data, 1, size, file) == size);
    CHECK(fclose(file) == 0);
}

/* a file's bytes and a zero after them; size 0 and an empty text where it cannot be read */
static char *files_read(const char *directory, const char *name, size_t *size) {
    char path[512], *data = (char *)calloc(1, 1);
    size_t n = 0, capacity = 1;
    FILE *file;
    int c;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "rb");
    while (file && (c = getc(file)) != EOF) {
        if (n + 1 == capacity) data = (char *)realloc(data, capacity = 2 * capacity + 4096);
        data[n++] = (char)c;
        data[n] = 0;
    }
    if (file) fclose(file);
    *size = n;
    return data;
}
/* where the data of a safetensors file starts */
static size_t files_data(const char *file, size_t n) {
    return n < 8 ? n : 8 + (size_t)(unsigned char)file[0] + 256 * (size_t)(unsigned char)file[1] +
                           65536 * (size_t)(unsigned char)file[2];
}
static int files_same(const char *a, const char *b, const char *name) {
    size_t n = 0, m = 0;
    char *x = files_read(a, name, &n), *y = files_read(b, name, &m);
    const int same = n > 0 && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}
static int files_count(const char *directory) {        /* of what is in it; -1: unknown */
#if LLMI_POSIX
    DIR *d = opendir(directory);
    int n = -2;                                        /* . and .. */
    if (!d) return -1;
    while (readdir(d)) n++;
    closedir(d);
    return n;
#else
    (void)directory;
    return -1;
#endif
}

/* ---- a safetensors file, tensor by tensor ---------------------------------------------------- */
typedef struct files_tensor {
    char name[96];
    const char *dtype;
    int n_dims;
    int64_t dims[8];
    unsigned char *data;
    size_t size;
} files_tensor;
typedef struct files_weights { files_tensor t[200]; int n; const char *metadata; } files_weights;

static void files_free(files_weights *w) {
    int i;
    for (i = 0; i < w->n; i++) free(w->t[i].data);
    w->n = 0;
}
static files_tensor *files_add(files_weights *w, const char *name, const char *dtype, int n_dims,
                               const int64_t *dims, const void *data, size_t size) {
    files_tensor *t = &w->t[w->n++];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->dtype = dtype;
    t->n_dims = n_dims;
    memcpy(t->dims, dims, (size_t)n_dims * sizeof *dims);
    t->data = (unsigned char *)calloc(1, size + 1);
    if (data) memcpy(t->data, data, size);
    t->size = size;
    return t;
}
static void files_drop(files_weights *w, int i) {
    free(w->t[i].data);
    memmove(&w->t[i], &w->t[i + 1], (size_t)(--w->n - i) * sizeof w->t[0]);
}
static files_tensor *files_find(files_weights *w, const char *name) {
    int i;
    for (i = 0; i < w->n; i++)
        if (!strcmp(w->t[i].name, name)) return &w->t[i];
    CHECK_MSG(0, "no tensor %s", name);
    return &w->t[0];
}
static void files_of_model(files_weights *w, const llm_model *model) {
    size_t i;
    memset(w, 0, sizeof *w);
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        files_add(w, t.name, "F32", t.n_dims, t.dims, t.data, 4 * tensor_size(&t));
    }
}

/* header and data -> the file, to be freed */
static char *files_join(const char *header, size_t n, const void *data, size_t n_data,
                        size_t *size) {
    char *file = (char *)malloc(8 + n + n_data);
    int i;
    for (i = 0; i < 8; i++) file[i] = (char)(unsigned char)((uint64_t)n >> 8 * i);
    memcpy(file + 8, header, n);
    if (n_data) memcpy(file + 8 + n, data, n_data);
    *size = 8 + n + n_data;
    return file;
}
/* the tensors first, first + step, ... of a file */
static char *files_pack_some(const files_weights *w, int first, int step, size_t *size) {
    static char header[32768];
    size_t n = 0, at = 0;
    unsigned char *data;
    char *file;
    int i, d;
    n += (size_t)snprintf(header, sizeof header, "{%s%s",
                          w->metadata ? w->metadata : "\"__metadata__\":{\"format\":\"pt\"}", "");
    for (i = first; i < w->n; i += step) at += w->t[i].size;
    data = (unsigned char *)malloc(at + 1);
    for (i = first, at = 0; i < w->n; i += step) {
        const files_tensor *t = &w->t[i];
        n += (size_t)snprintf(header + n, sizeof header - n,
                              ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
        for (d = 0; d < t->n_dims; d++)
            n += (size_t)snprintf(header + n, sizeof header - n, "%s%ld", d ? "," : "",
                                  (long)t->dims[d]);
        n += (size_t)snprintf(header + n, sizeof header - n, "],\"data_offsets\":[%lu,%lu]}",
                              (unsigned long)at, (unsigned long)(at + t->size));
        memcpy(data + at, t->data, t->size);
        at += t->size;
    }
    n += (size_t)snprintf(header + n, sizeof header - n, "}");
    CHECK(n < sizeof header);
    file = files_join(header, n, data, at, size);
    free(data);
    return file;
}
static char *files_pack(const files_weights *w, size_t *size) {
    return files_pack_some(w, 0, 1, size);
}
static char *files_pack_model(const llm_model *model, size_t *size) {
    files_weights *w = (files_weights *)plain_alloc(sizeof *w);
    char *file;
    files_of_model(w, model);
    file = files_pack(w, size);
    files_free(w);
    free(w);
    return file;
}

/* ---- configurations -------------------------------------------------------------------------- */
static const char files_gpt2[] = "{\"model_type\": \"gpt2\", \"vocab_size\": 3, \"n_positions\""
                                 ": 2, \"n_embd\": 2, \"n_layer\": 1, \"n_head\": 1}";
static const char files_deepseek[] =
    "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 7, \"max_position_embeddings\": 64, "
    "\"hidden_size\": 6, \"intermediate_size\": 5, \"moe_intermediate_size\": 3, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"n_shared_experts\": 1, "
    "\"n_routed_experts\": 4, \"routed_scaling_factor\": 2.5, \"kv_lora_rank\": 4, "
    "\"q_lora_rank\": 3, \"qk_rope_head_dim\": 4, \"v_head_dim\": 5, \"qk_nope_head_dim\": 3, "
    "\"n_group\": 2, \"topk_group\": 1, \"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, "
    "\"norm_topk_prob\": true, \"rms_norm_eps\": 1e-5, \"attention_dropout\": 0.25}";

/* `more` before the last brace, with ' for "; its first key replaces one that is there already */
static const char *files_config(const char *base, const char *more) {
    static char out[2048];
    char key[64], *at;
    const char *old;
    snprintf(key, sizeof key, "\"%.*s\": ", (int)strcspn(more + 1, "'"), more + 1);
    old = strstr(base, key);
    if (old)                           /* a number or a word: up to a comma or a brace */
        snprintf(out, sizeof out, "%.*s%s%s", (int)(old - base), base, more,
                 old + strcspn(old, ",}"));
    else
        snprintf(out, sizeof out, "%.*s, %s}", (int)strlen(base) - 1, base, more);
    for (at = out; (at = strchr(at, '\'')) != NULL;) *at = '"';
    return out;
}

static llm_config files_deepseek_config(void) {        /* what files_deepseek says */
    llm_config c;
    memset(&c, 0, sizeof c);
    c.arch = LLM_ARCH_DEEPSEEK_V3;
    c.vocab_size = 7;
    c.max_seq_len = 64;
    c.d_model = 6;
    c.d_ffn = 5;
    c.moe_d_ffn = 3;
    c.n_layers = c.n_heads = c.n_group = c.num_experts_per_tok = 2;
    c.n_shared_experts = c.topk_group = c.first_k_dense = c.norm_topk_prob = 1;
    c.n_routed_experts = c.kv_lora_rank = c.qk_rope_head_dim = 4;
    c.q_lora_rank = c.qk_nope_head_dim = 3;
    c.v_head_dim = 5;
    c.routed_scaling_factor = 2.5f;
    c.norm_eps = 1e-5f;
    c.attn_pdrop = 0.25f;
    c.rope_theta = 10000.0f;
    return c;
}

/* ---- loading, watched ------------------------------------------------------------------------ */
static heap files_heap;                /* of the last load */

/* one load at a time; a failed one leaves nothing, and says what and why */
static llm_model *files_loaded(llm_model *model, const llm_error *err) {
    if (!model) {
        CHECK_MSG(err->code != LLM_OK && err->message[0], "failed without a message, code %d",
                  (int)err->code);
        CHECK_MSG(files_heap.live == 0, "%ld blocks left: %s", files_heap.live, err->message);
    }
    CHECK(files_heap.wrong == 0);
    return model;
}
static llm_model_desc files_desc(void) {       /* whatever type a file has becomes f32 */
    llm_model_desc d;
    heap_init(&files_heap);
    d = model_desc(0, 1, &files_heap.allocator);
    d.dtype = LLM_F32;
    return d;
}
static llm_model *files_load(const char *path, llm_error *err) {
    const llm_model_desc d = files_desc();
    memset(err, 0, sizeof *err);
    return files_loaded(llm_model_load(path, &d, err), err);
}
/* from copies of exactly these sizes, the weights at an odd address */
static llm_model *files_load_memory(const void *config, size_t n, const void *weights, size_t size,
                                    llm_error *err) {
    const llm_model_desc d = files_desc();
    char *text = (char *)malloc(n + !n), *bytes = (char *)malloc(size + 1);
    llm_model *model;
    if (n) memcpy(text, config, n);
    if (size) memcpy(bytes + 1, weights, size);
    memset(err, 0, sizeof *err);
    model = files_loaded(llm_model_load_memory(text, n, bytes + 1, size, &d, err), err);
    free(text);
    free(bytes);
    return model;
}
static void files_unload(llm_model *model) {
    llm_model_free(model);
    CHECK_MSG(files_heap.live == 0 && files_heap.bytes == 0 && files_heap.wrong == 0,
              "%ld blocks left", files_heap.live);
}

static void files_none_mapped(void) {  /* where the system says so */
    size_t n;
    char *maps = files_read("/proc/self", "maps", &n);
    CHECK(!strstr(maps, "/" FILES "/"));
    free(maps);
}

/* Both ways of loading refuse: with this code, unless it is LLM_OK (then any), and a message that
 * holds the word and the name of the file. Removes the model if one was loaded after all. */
static void files_check(llm_model *model, const llm_error *err, llm_result code, const char *file,
                        const char *word, const char *about) {
    const char *words[3] = {NULL, NULL, NULL};
    CHECK_MSG(!model, "loaded: %.200s", about);
    if (model) {
        files_unload(model);
        return;
    }
    words[0] = file;
    words[1] = word;
    check_refused(err->code, code == LLM_OK ? err->code : code, err, words, about);
}
static void files_refuses(const char *path, llm_result code, const char *file, const char *word,
                          const char *about) {
    llm_error err;
    llm_model *model = files_load(path, &err);
    files_check(model, &err, code, file, word, about);
}
static void files_refused(const char *config, size_t n, const void *weights, size_t size,
                          int in_config, llm_result code, const char *word, const char *about) {
    const char *directory = files_directory("refused");
    llm_error err;
    files_write(directory, "config.json", config, n);
    files_write(directory, "model.safetensors", weights, size);
    files_refuses(directory, code, in_config ? "refused/config.json" : "refused/model.safetensors",
                  word, about);
    files_check(files_load_memory(config, n, weights, size, &err), &err, code,
                in_config ? "config.json in memory" : "safetensors in memory", word, about);
}
static void files_refused_weights(const files_weights *w, llm_result code, const char *word) {
    size_t size;
    char *file = files_pack(w, &size);
    files_refused(files_gpt2, strlen(files_gpt2), file, size, 0, code, word, word);
    free(file);
}
static void files_refused_header(const char *header, size_t n, size_t n_data, llm_result code,
                                 const char *word) {
    static const unsigned char zeros[4096] = {0};
    size_t size;
    char *file = files_join(header, n, zeros, n_data, &size);
    files_refused(files_gpt2, strlen(files_gpt2), file, size, 0, code, word, header);
    free(file);
}

static llm_model *files_small(int tied, uint64_t seed) {
    llm_config c = small_config(3, 2, 2, 1, 1);
    c.tie_embeddings = tied;
    return shaken_model(&c, seed, 1, NULL);
}
static int files_same_tensors(const llm_model *a, const llm_model *b) {
    size_t i;
    if (!a || !b || llm_model_tensor_count(a) != llm_model_tensor_count(b)) return 0;
    for (i = 0; i < llm_model_tensor_count(a); i++) {
        const llm_tensor x = llm_model_tensor(a, i), y = llm_model_tensor(b, i);
        if (strcmp(x.name, y.name) || tensor_size(&x) != tensor_size(&y) ||
            memcmp(x.data, y.data, tensor_size(&x) * 4))
            return 0;
    }
    return 1;
}
/* these weights load both ways, and are those of the model */
static void files_accepted(const char *config, const files_weights *w, const llm_model *want) {
    const char *directory = files_directory("accepted");
    llm_error err;
    llm_model *model;
    size_t size;
    char *file = files_pack(w, &size);
    files_write(directory, "config.json", config, strlen(config));
    files_write(directory, "model.safetensors", file, size);
    model = files_load(directory, &err);
    CHECK_MSG(model != NULL, "%s", err.message);
    CHECK(!model || files_same_tensors(model, want));
    files_unload(model);
    model = files_load_memory(config, strlen(config), file, size, &err);
    CHECK_MSG(model != NULL, "%s", err.message);
    CHECK(!model || files_same_tensors(model, want));
    files_unload(model);
    free(file);
}

/* the index: tensor i is said to be in a or b, the last one in what `last` is, as JSON */
static void files_write_index(const char *directory, const files_weights *w, const char *last) {
    static char text[16384];
    size_t n = (size_t)snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":{");
    int i;
    for (i = 0; i < w->n; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\":%s", i ? "," : "", w->t[i].name,
                              i == w->n - 1 && last ? last : i % 2 ? "\"b.safetensors\""
                                                                   : "\"a.safetensors\"");
    n += (size_t)snprintf(text + n, sizeof text - n, "}}");
    files_write(directory, "model.safetensors.index.json", text, n);
}
static void files_write_shards(const char *directory, const files_weights *w) {
    int i;
    for (i = 0; i < 2; i++) {
        size_t size;
        char *file = files_pack_some(w, i, 2, &size);
        files_write(directory, i ? "b.safetensors" : "a.safetensors", file, size);
        free(file);
    }
}

/* ---- broken files ---------------------------------------------------------------------------- */
TEST(files_every_prefix) {
    llm_model *model = files_small(1, 1);
    const char *directory = files_directory("prefix");
    files_weights w;
    llm_error err;
    size_t size, n;
    char *file;
    files_of_model(&w, model);
    file = files_pack(&w, &size);
    files_accepted(files_gpt2, &w, model);
    files_write(directory, "config.json", files_gpt2, strlen(files_gpt2));
    for (n = 0; n < size; n++) {
        files_write(directory, "model.safetensors", file, n);
        files_refuses(directory, LLM_ERR_FORMAT, "prefix/model.safetensors", "", "a prefix");
        files_check(files_load_memory(files_gpt2, strlen(files_gpt2), file, n, &err), &err,
                    LLM_ERR_FORMAT, "safetensors in memory", "", "a prefix");
    }
    files_write(directory, "model.safetensors", file, size);
    for (n = 0; n < strlen(files_gpt2); n++) {
        files_write(directory, "config.json", files_gpt2, n);
        files_refuses(directory, LLM_ERR_FORMAT, "prefix/config.json", "", "a prefix");
        files_check(files_load_memory(files_gpt2, n, file, size, &err), &err, LLM_ERR_FORMAT,
                    "config.json in memory", "", "a prefix");
    }
    free(file);
    files_free(&w);
    llm_model_free(model);
}

static const char files_odd[] = " \"\\{}[]:,.-09eA\x80\xff\n";

TEST(files_damaged_bytes) {            /* loaded or refused, but nothing else */
    llm_model *model = files_small(1, 1);
    llm_error err;
    size_t size, n_header, i;
    char *file, config[sizeof files_gpt2];
    file = files_pack_model(model, &size);
    n_header = files_data(file, size);
    for (i = 0; i < 3 * n_header; i++) {
        const uint64_t draw = llm_random(5, i);
        const char old = file[i / 3];
        file[i / 3] = i % 3 ? files_odd[draw % 18] : (char)(old ^ 1 << draw % 8);
        files_unload(files_load_memory(files_gpt2, strlen(files_gpt2), file, size, &err));
        file[i / 3] = old;
    }
    for (i = 0; i < 4 * strlen(files_gpt2); i++) {
        const uint64_t draw = llm_random(6, i);
        memcpy(config, files_gpt2, sizeof config);
        config[i / 4] = i % 4 ? files_odd[draw % 18] : (char)(config[i / 4] ^ 1 << draw % 8);
        files_unload(files_load_memory(config, strlen(files_gpt2), file, size, &err));
    }
    free(file);
    llm_model_free(model);
}

TEST(files_header_length) {
    static const uint64_t lengths[] = {3, 100, UINT64_C(1) << 31, UINT64_C(1) << 32, INT64_MAX,
                                       UINT64_C(1) << 63, UINT64_MAX - 8, UINT64_MAX - 7,
                                       UINT64_MAX};
    size_t i;
    int k;
    for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char file[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        for (k = 0; k < 8; k++) file[k] = (char)(unsigned char)(lengths[i] >> 8 * k);
        files_refused(files_gpt2, strlen(files_gpt2), file, sizeof file, 0, LLM_ERR_FORMAT,
                      "header", "length");
    }
    files_refused_header("", 0, 0, LLM_ERR_FORMAT, "");
    files_refused_header("[]", 2, 0, LLM_ERR_FORMAT, "object");
    files_refused_header("7", 1, 0, LLM_ERR_FORMAT, "object");
    files_refused_header("{}", 2, 0, LLM_ERR_FORMAT, "transformer.wte.weight");
    files_refused_header("{}", 2, 1, LLM_ERR_FORMAT, "1 bytes");
    files_refused_header("{\"__metadata__\":{}}", 19, 0, LLM_ERR_FORMAT, "transformer.wte.weight");
}

TEST(files_offsets) {
#define FILES_T(name, shape, offsets) \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
    static const struct { const char *header; size_t data; const char *word;
    } files[] = {                      /* one tensor beside the other, none twice, nothing else */
        {"{" FILES_T("a", "[2]", "[0,8]") "," FILES_T("b", "[2]", "[4,12]") "}", 12, "tensor b"},
        {"{" FILES_T("a", "[2]", "[0,8]") "," FILES_T("b", "[2]", "[0,8]") "}", 8, "begins"},
        {"{" FILES_T("a", "[3]", "[0,12]") "," FILES_T("b", "[1]", "[4,8]") "}", 12, "tensor b"},
        {"{" FILES_T("a", "[2]", "[0,8]") "," FILES_T("b", "[1]", "[12,16]") "}", 16, "tensor b"},
        {"{" FILES_T("a", "[2]", "[4,12]") "}", 12, "tensor a"},
        {"{" FILES_T("a", "[2]", "[0,8]") "}", 12, "end at byte 8"},
        {"{" FILES_T("a", "[2]", "[0,8]") "," FILES_T("a", "[1]", "[8,12]") "}", 12, "twice"},
        {"{" FILES_T("a", "[2]", "[0,8]") "," FILES_T("\\u0061", "[1]", "[8,12]") "}", 12, "twice"},
        {"{" FILES_T("a\\u0000b", "[2]", "[0,8]") "}", 8, "zero byte"},
        {"{\"a\":{\"dtype\":4,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "tensor a"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "tensor a"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "tensor a"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "tensor a"},
        {"{\"a\":[]}", 8, "tensor a"},
        {"{\"a\":null}", 8, "tensor a"}};
    static const struct { const char *shape, *offsets; size_t data;
    } one[] = {                        /* within the file, and what the shape needs */
        {"[2]", "[0,8]", 7},
        {"[2]", "[8,0]", 8},
        {"[2]", "[-8,0]", 8},
        {"[2]", "[0,12]", 12},
        {"[1]", "[0,8]", 8},
        {"[2]", "[0,9223372036854775807]", 8},
        {"[2]", "[0,18446744073709551624]", 8},
        {"[2]", "[18446744073709551608,0]", 8},
        {"[2]", "[0,8.0]", 8},
        {"[2]", "[0,\"8\"]", 8},
        {"[2]", "[8]", 8},
        {"[2]", "[0,4,8]", 8},
        {"[2]", "{\"0\":0,\"1\":8}", 8},
        {"[4611686018427387905]", "[0,4]", 4},
        {"[4294967296,4294967296]", "[0,0]", 0},
        {"[4294967296,1073741825]", "[0,4]", 4},
        {"[99999999999999999999]", "[0,8]", 8},
        {"[3,-1,-1]", "[0,12]", 12},
        {"[2.0]", "[0,8]", 8},
        {"[\"2\"]", "[0,8]", 8},
        {"[[2]]", "[0,8]", 8},
        {"2", "[0,8]", 8},
        {"null", "[0,8]", 8}};
    static const char nine[] = "{" FILES_T("a", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}";
    char header[200];
    size_t i;
    for (i = 0; i < sizeof files / sizeof files[0]; i++)
        files_refused_header(files[i].header, strlen(files[i].header), files[i].data,
                             LLM_ERR_FORMAT, files[i].word);
    for (i = 0; i < sizeof one / sizeof one[0]; i++) {
        snprintf(header, sizeof header, "{" FILES_T("a", "%s", "%s") "}", one[i].shape,
                 one[i].offsets);
        files_refused_header(header, strlen(header), one[i].data, LLM_ERR_FORMAT, "tensor a");
    }
    files_refused_header(nine, strlen(nine), 4, LLM_ERR_UNSUPPORTED, "9 dimensions");
}

TEST(files_json) {                     /* wherever JSON is read: header, configuration, index */
    static const char *const bad[] = {
        "{\"\xff\":1}", "{\"\xc3(\":1}", "{\"\xed\xa0\x80\":1}", "\xef\xbb\xbf{}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}", "{\"a\":\"\\u12g4\"}", "{\"a\":\"\n\"}", "{\"a\":\"", "{\"a\":01}",
        "{\"a\":NaN}", "{\"a\":1,}", "{\"a\":1}}", "{\"a\":1,\"b\":2,\"a\":3}",
        "{\"b\":{\"c\":1,\"c\":2}}", "{\"b\":1,\"\\u0062\":2}", "{'a':1}", "{\"a\":1} //"};
    const char *directory;
    char deep[600];
    llm_model *model = files_small(1, 1);
    size_t size, i;
    char *file;
    file = files_pack_model(model, &size);
    memset(deep, 0, sizeof deep);
    for (i = 0; i < 100; i++) memcpy(deep + 5 * i, "{\"a\":", 5);
    for (i = 0; i <= sizeof bad / sizeof bad[0]; i++) {
        const char *text = i < sizeof bad / sizeof bad[0] ? bad[i] : deep;
        files_refused_header(text, strlen(text), 0, LLM_ERR_FORMAT, "at byte ");
        files_refused(text, strlen(text), file, size, 1, LLM_ERR_FORMAT, "at byte ", text);
        directory = files_directory("json");
        files_write(directory, "config.json", files_gpt2, strlen(files_gpt2));
        files_write(directory, "model.safetensors.index.json", text, strlen(text));
        files_refuses(directory, LLM_ERR_FORMAT, "json/model.safetensors.index.json", "at byte ",
                      text);
    }
    free(file);
    llm_model_free(model);
}

TEST(files_shapes_and_names) {
    llm_model *model = files_small(0, 1);
    const int64_t one[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    files_weights w;
    int i;
    const char *config;
    size_t size;
    char *file;
    /* missing, one after the other */
    for (i = 0; i < (int)llm_model_tensor_count(model); i++) {
        char name[96];
        files_of_model(&w, model);
        snprintf(name, sizeof name, "%s", w.t[i].name);
        files_drop(&w, i);
        config = files_config(files_gpt2, "'tie_word_embeddings': false");
        file = files_pack(&w, &size);
        files_refused(config, strlen(config), file, size, 0, LLM_ERR_FORMAT, name, name);
        free(file);
        files_free(&w);
    }
    llm_model_free(model);
    model = files_small(1, 1);
    files_of_model(&w, model);
    for (i = 0; i < w.n; i++) {        /* each shape: turned, with a 1 more, flat, one less */
        files_tensor *t = &w.t[i], old = *t;
        if (t->n_dims == 2 && t->dims[0] != t->dims[1]) {
            t->dims[0] = old.dims[1];
            t->dims[1] = old.dims[0];
            files_refused_weights(&w, LLM_ERR_FORMAT, t->name);
        }
        t->n_dims = old.n_dims + 1;
        t->dims[0] = 1;
        memcpy(t->dims + 1, old.dims, 2 * sizeof *old.dims);
        files_refused_weights(&w, LLM_ERR_FORMAT, t->name);
        memcpy(t->dims, old.dims, sizeof old.dims);
        t->dims[old.n_dims] = 1;
        files_refused_weights(&w, LLM_ERR_FORMAT, t->name);
        t->n_dims = 1;
        t->dims[0] = (int64_t)old.size / 4;
        if (old.n_dims == 2) files_refused_weights(&w, LLM_ERR_FORMAT, t->name);
        *t = old;
        t->dims[0]--;
        t->size = old.size / (size_t)old.dims[0] * (size_t)t->dims[0];
        files_refused_weights(&w, LLM_ERR_FORMAT, t->name);
        *t = old;
        t->dims[0] = 0;
        t->size = 0;
        files_refused_weights(&w, LLM_ERR_FORMAT, t->name);
        *t = old;
    }
    /* what has no place is not passed over: it would change what the model computes */
    files_add(&w, "transformer.h.1.ln_1.weight", "F32", 1, one, NULL, 4);
    files_refused_weights(&w, LLM_ERR_UNSUPPORTED, "transformer.h.1.ln_1.weight");
    files_drop(&w, w.n - 1);
    files_add(&w, "score.weight", "F32", 8, one, NULL, 4);
    files_refused_weights(&w, LLM_ERR_UNSUPPORTED, "score.weight");
    w.t[w.n - 1].dims[7] = 0;                              /* unless nothing is in it */
    w.t[w.n - 1].size = 0;
    files_accepted(files_gpt2, &w, model);
    files_drop(&w, w.n - 1);
    files_add(&w, "wte.weight", "F32", 2, w.t[0].dims, w.t[0].data, w.t[0].size);
    files_refused_weights(&w, LLM_OK, "wte.weight");       /* with and without prefix: twice */
    files_drop(&w, w.n - 1);
    files_add(&w, "", "F32", 1, one, NULL, 4);
    files_refused_weights(&w, LLM_ERR_UNSUPPORTED, "no place");
    files_free(&w);
    llm_model_free(model);
}

TEST(files_types) {
    static const struct { const char *name; size_t bytes;
    } types[] = {{"I64", 8}, {"I32", 4}, {"I16", 2}, {"I8", 1}, {"U64", 8}, {"U32", 4},
                 {"U16", 2}, {"U8", 1}, {"BOOL", 1}, {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F4", 1},
                 {"f32", 4}, {"F32 ", 4}, {"", 4}};
    llm_model *model = files_small(1, 1);
    files_weights w;
    size_t i;
    files_of_model(&w, model);
    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        files_tensor *t = files_find(&w, "transformer.h.0.attn.c_attn.weight");
        t->dtype = types[i].name;
        t->size = 12 * types[i].bytes;
        free(t->data);
        t->data = (unsigned char *)calloc(1, t->size);
        files_refused_weights(&w, LLM_ERR_UNSUPPORTED, types[i].name);
        files_refused_weights(&w, LLM_ERR_UNSUPPORTED, "transformer.h.0.attn.c_attn.weight");
    }
    files_free(&w);
    files_of_model(&w, model);
    for (i = 0; i < (size_t)w.n; i++) {          /* F64 becomes f32 */
        files_tensor *t = &w.t[i];
        unsigned char *wide = (unsigned char *)malloc(2 * t->size);
        size_t j;
        for (j = 0; j < t->size / 4; j++) {
            float value;
            double exact;
            memcpy(&value, t->data + 4 * j, 4);
            exact = (double)value * (1.0 + 1e-9);
            memcpy(wide + 8 * j, &exact, 8);
        }
        free(t->data);
        t->data = wide;
        t->size *= 2;
        t->dtype = "F64";
    }
    files_accepted(files_gpt2, &w, model);
    files_free(&w);
    llm_model_free(model);
}

/* ---- names and heads ------------------------------------------------------------------------- */
TEST(files_gpt2_names) {
    const int64_t mask[4] = {1, 1, 2, 2}, none[1] = {1};
    llm_model *tied = files_small(1, 1), *untied = files_small(0, 2);
    files_weights w;
    float *head;
    char config[512];
    int i;
    snprintf(config, sizeof config, "%s",
             files_config(files_gpt2, "'tie_word_embeddings': false"));
    files_of_model(&w, tied);
    files_accepted(files_gpt2, &w, tied);
    files_accepted(files_config(files_gpt2, "'tie_word_embeddings': true"), &w, tied);
    files_accepted(files_config(files_gpt2, "'n_ctx': 99, 'n_inner': null, 'use_cache': false"),
                   &w, tied);
    files_accepted(files_config(files_gpt2, "'activation_function': 'gelu_pytorch_tanh'"), &w,
                   tied);
    files_accepted(files_config(files_gpt2, "'activation_function': 'gelu_fast', "
                                            "'reorder_and_upcast_attn': true"), &w, tied);
    files_add(&w, "lm_head.weight", "F32", 2, w.t[0].dims, w.t[0].data, w.t[0].size);
    files_accepted(files_gpt2, &w, tied);                  /* tied, and there: the same */
    head = (float *)(void *)w.t[w.n - 1].data;
    head[5] += 1.0f;
    files_refused_weights(&w, LLM_ERR_FORMAT, "lm_head.weight");
    head[5] -= 1.0f;
    w.t[w.n - 1].dims[0] = 2;
    w.t[w.n - 1].dims[1] = 3;
    files_refused_weights(&w, LLM_ERR_FORMAT, "lm_head.weight");
    files_drop(&w, w.n - 1);
    for (i = 0; i < 2; i++) {          /* buffers of old files, skipped whatever they hold */
        files_add(&w, i ? "h.0.attn.bias" : "transformer.h.0.attn.bias", i ? "U8" : "F32", 4, mask,
                  NULL, i ? 4 : 16);
        files_add(&w, i ? "h.0.attn.masked_bias" : "transformer.h.0.attn.masked_bias", "F32", i,
                  none, NULL, 4);
    }
    files_accepted(files_gpt2, &w, tied);
    for (i = 0; i < w.n; i++)          /* all without "transformer." */
        if (!strncmp(w.t[i].name, "transformer.", 12)) {
            char *name = w.t[i].name;
            memmove(name, name + 12, strlen(name + 12) + 1);
            if (!strcmp(name, "h.0.attn.bias") || !strcmp(name, "h.0.attn.masked_bias"))
                name[2] = '7';         /* they were there without the prefix, too */
        }
    files_accepted(files_gpt2, &w, tied);
    files_free(&w);
    files_of_model(&w, untied);
    files_accepted(config, &w, untied);
    files_free(&w);
    llm_model_free(tied);
    llm_model_free(untied);
}

/* MTP modules as DeepSeek's files have them: further layers, which may repeat embedding and head */
TEST(files_mtp) {
    llm_config c = files_deepseek_config();
    llm_model *model, *plain = shaken_model(&c, 5, 1, NULL);
    const int64_t pairs[1] = {2};
    char config[2048];
    files_weights w;
    files_tensor *t;
    size_t size, i;
    char *file;
    int copy, claim;
    c.mtp_depth = 2;
    model = shaken_model(&c, 5, 1, NULL);
    if (!model || !plain) return;
    snprintf(config, sizeof config, "%s",
             files_config(files_deepseek, "'num_nextn_predict_layers': 2"));
    files_of_model(&w, model);
    files_accepted(config, &w, model);
    files_accepted(files_deepseek, &w, model);             /* nothing said: what is there */
    files_accepted(files_config(files_deepseek, "'num_mtp_layers': 2"), &w, model);
    for (claim = 0; claim < 5; claim++) {        /* of two the first ones, and the last again */
        char count[64], name[72];
        const char *claims;
        llm_model *got;
        llm_error err;
        if (claim == 2) continue;
        snprintf(count, sizeof count, "'num_nextn_predict_layers': %d", claim);
        claims = files_config(files_deepseek, count);
        file = files_pack(&w, &size);
        got = files_load_memory(claims, strlen(claims), file, size, &err);
        CHECK_MSG(got && got->config.mtp_depth == claim, "%s", err.message);
        for (i = 0; got && i < llm_model_tensor_count(got); i++) {
            const llm_tensor x = llm_model_tensor(got, i);
            size_t j = 0;
            snprintf(name, sizeof name, "%s", x.name);
            if (strstr(name, "layers.4.") || strstr(name, "layers.5.")) name[13] = '3';
            while (j < llm_model_tensor_count(model) &&
                   strcmp(llm_model_tensor(model, j).name, name)) j++;
            CHECK_MSG(!memcmp(x.data, llm_model_tensor(model, j).data, 4 * tensor_size(&x)), "%s",
                      x.name);
        }
        files_unload(got);
        free(file);
    }
    files_add(&w, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, pairs, NULL, 8);
    for (copy = 0; copy < 2; copy++) {
        t = files_find(&w, copy ? "lm_head.weight" : "model.embed_tokens.weight");
        t = files_add(&w, copy ? "model.layers.3.shared_head.head.weight"
                               : "model.layers.2.embed_tokens.weight", "F32", 2, t->dims, t->data,
                      t->size);
        files_accepted(config, &w, model);
        t->data[t->size - 1] ^= 1;     /* not a repetition */
        file = files_pack(&w, &size);
        files_refused(config, strlen(config), file, size, 0, LLM_ERR_FORMAT, t->name, "copy");
        free(file);
        t->data[t->size - 1] ^= 1;
    }
    for (i = (size_t)w.n; i-- > 0;)    /* each tensor of a module */
        if (!strncmp(w.t[i].name, "model.layers.3.", 15) && !strstr(w.t[i].name, "head.head")) {
            const files_tensor old = w.t[i];
            const size_t n = strlen(config);
            snprintf(w.t[i].name, sizeof w.t[i].name, "x.attn.bias");
            file = files_pack(&w, &size);
            files_refused(config, n, file, size, 0, LLM_ERR_FORMAT, old.name, old.name);
            free(file);
            w.t[i] = old;
        }
    files_free(&w);
    files_of_model(&w, plain);         /* transformers says 1 where there is none */
    files_accepted(files_config(files_deepseek, "'num_nextn_predict_layers': 1"), &w, plain);
    files_free(&w);
    llm_model_free(model);
    llm_model_free(plain);
}

/* what only one family has is refused of another */
TEST(files_families) {
    static const char *const no_text[] = {
        "{\"model_type\": \"kimi_k25\"}",
        "{\"model_type\": \"kimi_k25\", \"text_config\": [1]}",
        "{\"model_type\": \"kimi_k25\", \"text_config\": {\"vocab_size\": 7}}"};
    const int64_t two[1] = {2};
    llm_config gpt2 = small_config(50, 16, 12, 2, 3), c = files_deepseek_config();
    llm_model *model = shaken_model(&c, 5, 1, NULL);
    char config[2048];
    files_weights w;
    llm_error err;
    size_t size;
    char *file;
    int i;
    gpt2.scoring_func = LLM_SCORING_SOFTMAX;
    REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&gpt2, &err), "scoring_func");
    for (i = 0; i < 6; i++) {
        llm_config bad = c;
        if (i == 0) bad.activation = LLM_ACTIVATION_RELU;
        if (i == 1) bad.attn_unscaled = 1;
        if (i == 2) bad.attn_scale_by_layer = 1;
        if (i >= 3) bad.scoring_func = LLM_SCORING_SOFTMAX;
        bad.norm_topk_prob = i == 3;
        bad.rope_half_split = i == 4;
        bad.mtp_depth = i == 5;
        REFUSED(LLM_ERR_ARGUMENT, llm_config_validate(&bad, &err),
                i < 3 ? "only GPT-2" : "scoring_func SOFTMAX");
    }
    c.scoring_func = LLM_SCORING_SOFTMAX;        /* V2's groups may have one expert each */
    c.norm_topk_prob = 0;
    c.n_group = c.n_routed_experts;
    c.topk_group = c.num_experts_per_tok;
    CHECK_MSG(llm_config_validate(&c, &err) == LLM_OK, "%s", err.message);
    files_of_model(&w, model);                   /* Kimi-K2.5's names, and what it sees with */
    for (i = 0; i < w.n; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s", w.t[i].name);
        snprintf(w.t[i].name, sizeof w.t[i].name, i % 2 ? "language_model.%.75s"
                                                        : "model.language_model.%.70s",
                 i % 2 || strncmp(name, "model.", 6) ? name : name + 6);
        if (!(i % 2) && strncmp(name, "model.", 6)) strcpy(w.t[i].name, name);
    }
    files_add(&w, "vision_tower.blocks.0.weight", "BF16", 1, two, NULL, 4);
    snprintf(config, sizeof config, "{\"model_type\": \"kimi_k25\", \"tie_word_embeddings\": false,"
             " \"text_config\": %s}", files_deepseek);
    files_accepted(config, &w, model);
    file = files_pack(&w, &size);
    for (i = 0; i < 3; i++)
        files_refused(no_text[i], strlen(no_text[i]), file, size, 1, LLM_ERR_FORMAT, "text_config",
                      no_text[i]);
    free(file);
    files_free(&w);
    llm_model_free(model);
}
/* GPT-2 with other activations, and DeepSeek-V2, whose trainer moves no router's bias */
TEST(files_families_stay) {
    const char *directory = files_directory("families");
    int i;
    for (i = 0; i < 6; i++) {
        llm_config c = i < 4 ? small_config(20, 16, 12, 2, 3) : files_deepseek_config();
        llm_train_desc d;
        llm_train_stats stats;
        llm_trainer *trainer;
        llm_model *model, *got;
        llm_error err;
        int32_t tokens[16], targets[16];
        if (i < 4) {
            c.activation = (llm_activation)i;
            c.attn_unscaled = i % 2;
            c.attn_scale_by_layer = i / 2;
        } else {
            c.scoring_func = LLM_SCORING_SOFTMAX;
            c.norm_topk_prob = 0;
            c.n_group = i == 4 ? 1 : 2;
            c.topk_group = 1;
        }
        model = shaken_model(&c, 5, 1, NULL);
        if (!model) return;
        CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
        got = files_load(directory, &err);
        CHECK_MSG(got && !memcmp(llm_model_config(got), llm_model_config(model),
                                 sizeof(llm_config)), "family %d: %s", i, err.message);
        files_unload(got);
        memset(&d, 0, sizeof d);
        d.batch_size = 1;
        d.seq_len = 16;
        d.max_steps = 2;
        trainer = llm_trainer_create(model, &d, &err);
        random_batch(tokens, targets, 16, 7, 0.0, 3);
        CHECK_MSG(trainer && llm_trainer_step(trainer, tokens, targets, &stats, &err) == LLM_OK &&
                      stats.loss > 0.0f, "family %d: %s", i, err.message);
        llm_trainer_free(trainer);
        llm_model_free(model);
    }
}

/* what was saved and loaded has the configuration that it had */
TEST(files_configuration_stays) {
    const char *directory = files_directory("configuration");
    int i;
    for (i = 0; i < 7; i++) {
        llm_config c = files_deepseek_config();
        llm_model *model, *got;
        llm_error err;
        if (i == 1 || i == 2) c.n_routed_experts = 0;          /* dense, whatever the others say */
        if (i == 2) c.q_lora_rank = 0;
        if (i == 3) c.embd_pdrop = 0.1f, c.resid_pdrop = 0.3f, c.attn_pdrop = 0.0f;
        if (i == 4) c.mtp_depth = 2, c.tie_embeddings = 1, c.attention_bias = 1;
        if (i == 6) c.first_k_dense = c.n_layers;      /* experts that no layer has */
        if (i == 5) {
            set_yarn(&c, 2.5f, 16, 0.0f, 0.0f, 0.7f, 0.0f);
            c.rope_half_split = 1;
            c.n_shared_experts = c.first_k_dense = 0;
            c.rope_theta = 12345.6f;
        }
        model = shaken_model(&c, 5, 1, NULL);
        if (!model) return;
        CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
        got = files_load(directory, &err);
        CHECK_MSG(got && !memcmp(llm_model_config(got), llm_model_config(model), sizeof c),
                  "configuration %d: %s", i, err.message);
        files_unload(got);
        llm_model_free(model);
    }
}

/* Another model_type, where architectures names DeepSeek-V3: then no key may be missing, for that
 * model_type may have other defaults. */
TEST(files_deepseek_by_architecture) {
    static const char *const keys[] = {"n_group", "routed_scaling_factor", "norm_topk_prob",
                                       "q_lora_rank", "first_k_dense_replace", "rms_norm_eps"};
    llm_config c = files_deepseek_config();
    llm_model *model = shaken_model(&c, 5, 1, NULL);
    files_weights w;
    char config[2048], without[2048], *at;
    size_t size, i;
    char *file;
    if (!model) return;
    files_of_model(&w, model);
    file = files_pack(&w, &size);
    snprintf(config, sizeof config, "%s",
             files_config(files_deepseek, "'scoring_func': 'sigmoid', 'topk_method': 'noaux_tc', "
                          "'architectures': ['DeepseekV3ForCausalLM']"));
    at = strstr(config, "deepseek_v3");
    memcpy(at, "joyai_flash", 11);
    files_accepted(config, &w, model);
    for (i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        strcpy(without, config);
        strstr(without, keys[i])[0] = 'X';
        files_refused(without, strlen(without), file, size, 1, LLM_ERR_UNSUPPORTED, keys[i],
                      keys[i]);
    }
    strcpy(without, config);
    memcpy(strstr(without, "V3ForCausal"), "V2", 2);
    files_refused(without, strlen(without), file, size, 1, LLM_ERR_UNSUPPORTED, "scoring_func",
                  "V2");
    free(file);
    files_free(&w);
    llm_model_free(model);
}

/* what chooses experts has to be a number; PyTorch would take NaN for the largest */
TEST(files_routers_are_finite) {
    static const char *const names[] = {"model.layers.1.mlp.gate.weight",
                                        "model.layers.1.mlp.gate.e_score_correction_bias"};
    static const float bad[] = {(float)NAN, (float)HUGE_VAL, -(float)HUGE_VAL};
    llm_config c = files_deepseek_config();
    llm_model *model = shaken_model(&c, 5, 1, NULL);
    files_weights w;
    size_t size, i, k;
    char *file;
    if (!model) return;
    files_of_model(&w, model);
    files_accepted(files_deepseek, &w, model);
    for (i = 0; i < 2; i++)
        for (k = 0; k < 3; k++) {
            float *value = (float *)(void *)files_find(&w, names[i])->data + 2, old = *value;
            *value = bad[k];
            file = files_pack(&w, &size);
            files_refused(files_deepseek, strlen(files_deepseek), file, size, 0, LLM_ERR_FORMAT,
                          names[i], "not finite");
            free(file);
            *value = old;
        }
    files_free(&w);
    llm_model_free(model);
}

/* the fewest digits that read back: those that Python's repr gives of numpy's float32 */
TEST(files_numbers) {
    static const struct { float value; const char *text; } cases[] = {
        {1e-5f, "1e-05"}, {0.1f, "0.1"}, {1.0f, "1.0"}, {10000.0f, "1e+04"}, {2.5f, "2.5"},
        {0.0f, "0.0"}, {1.0f / 3.0f, "0.33333334"}, {3.4028235e38f, "3.4028235e+38"},
        {16777216.0f, "16777216.0"}, {1e-45f, "1e-45"}, {-0.3f, "-0.3"}};
    llmi_text text;
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(&text, 0, sizeof text);
        llmi_text_number(&text, cases[i].value, 1);
        llmi_text_add(&text, "", 1);
        CHECK_MSG(text.data && !strcmp(text.data, cases[i].text), "%s, not %s",
                  text.data ? text.data : "nothing", cases[i].text);
        llmi_text_free(&text);
    }
}

/* another family's directory without weights: the family is named, not a missing file */
TEST(files_names_the_family) {
    const char *directory = files_directory("family");
    files_write(directory, "config.json", "{\"model_type\": \"llama\"}", 23);
    files_refuses(directory, LLM_ERR_UNSUPPORTED, "family/config.json", "llama", "no weights");
}

/* ---- types of values ------------------------------------------------------------------------- */
/* the number that a pattern of 1 + e + f bits stands for, by the definition */
static double files_value(unsigned bits, int e, int f) {
    const int exponent = (int)(bits >> f & ((1u << e) - 1)), bias = (1 << (e - 1)) - 1;
    const double fraction = (double)(bits & ((1u << f) - 1)), sign = bits >> (e + f) ? -1.0 : 1.0;
    if (exponent == (1 << e) - 1) return fraction > 0.0 ? (double)NAN : sign * HUGE_VAL;
    if (!exponent) return sign * ldexp(fraction, 1 - bias - f);
    return sign * ldexp(fraction + ldexp(1.0, f), exponent - bias - f);
}
static int files_is(float got, double want) {
    if (want != want) return got != got;
    return (double)got <= want && (double)got >= want && !signbit(got) == !signbit(want);
}

TEST(files_half_values) {              /* every pattern of F16 and BF16, in an embedding */
    llm_config c = small_config(4096, 2, 16, 1, 1);
    llm_model *zero = llm_model_create(&c, NULL, NULL), *model;
    files_weights w;
    llm_error err;
    char *file, config[512];
    size_t size, i, j;
    int type;
    CHECK(zero != NULL);
    if (!zero) return;
    snprintf(config, sizeof config, "%s", files_config(files_gpt2, "'n_embd': 16"));
    snprintf(config, sizeof config, "%s", files_config(config, "'vocab_size': 4096"));
    for (type = 0; type < 2; type++) {
        files_of_model(&w, zero);
        for (i = 0; i < (size_t)w.n; i++) {
            uint16_t *patterns = (uint16_t *)calloc(w.t[i].size / 4, 2);
            for (j = 0; j < w.t[i].size / 4; j++) patterns[j] = (uint16_t)(i ? 31 * j + i : j);
            w.t[i].dtype = type ? "BF16" : "F16";
            w.t[i].size /= 2;
            memcpy(w.t[i].data, patterns, w.t[i].size);
            free(patterns);
        }
        file = files_pack(&w, &size);
        model = files_load_memory(config, strlen(config), file, size, &err);
        CHECK_MSG(model != NULL, "%s", err.message);
        for (i = 0; model && i < llm_model_tensor_count(model); i++) {
            const llm_tensor t = llm_model_tensor(model, i);
            size_t bad = 0;
            for (j = 0; j < tensor_size(&t); j++) {
                const unsigned pattern = (unsigned)(i ? 31 * j + i : j) & 0xFFFF;
                bad += !files_is(((float *)t.data)[j],
                                 type ? files_value(pattern, 8, 7) : files_value(pattern, 5, 10));
            }
            CHECK_MSG(bad == 0, "%s %s: %lu values differ", t.name, type ? "BF16" : "F16",
                      (unsigned long)bad);
        }
        files_unload(model);
        free(file);
        files_free(&w);
    }
    llm_model_free(zero);
}

TEST(files_mixed_types) {              /* in one file, and of an odd number of bytes before F32 */
    llm_model *model = files_small(1, 1), *got;
    const int64_t odd[1] = {3};
    files_tensor first;
    files_weights w;
    llm_error err;
    size_t size, i;
    char *file;
    files_of_model(&w, model);
    for (i = 0; i < (size_t)w.n; i += 2) {                 /* every other: upper halves only */
        const llm_tensor t = llm_model_tensor(model, i);
        size_t j;
        for (j = 0; j < tensor_size(&t); j++) {
            uint32_t bits;
            memcpy(&bits, (float *)t.data + j, 4);
            w.t[i].data[2 * j] = (unsigned char)(bits >> 16);
            w.t[i].data[2 * j + 1] = (unsigned char)(bits >> 24);
            bits &= 0xffff0000u;
            memcpy((float *)t.data + j, &bits, 4);
        }
        w.t[i].dtype = "BF16";
        w.t[i].size /= 2;
    }
    files_add(&w, "x.attn.masked_bias", "U8", 1, odd, NULL, 3);
    first = w.t[w.n - 1];
    memmove(&w.t[1], &w.t[0], (size_t)(w.n - 1) * sizeof first);
    w.t[0] = first;
    file = files_pack(&w, &size);
    got = files_load_memory(files_gpt2, strlen(files_gpt2), file, size, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    CHECK(!got || files_same_tensors(got, model));
    files_unload(got);
    free(file);
    files_free(&w);
    llm_model_free(model);
}

/* a dense DeepSeek of one layer whose widths 128 does not divide, and its config.json */
static llm_model *files_uneven(char config[1024]) {
    llm_config c = files_deepseek_config();
    c.d_model = 131;
    c.d_ffn = 257;
    c.n_layers = 1;
    c.n_routed_experts = c.n_shared_experts = c.num_experts_per_tok = c.n_group = c.topk_group =
        c.moe_d_ffn = c.first_k_dense = 0;
    snprintf(config, 1024, "%s", files_config(files_deepseek, "'hidden_size': 131"));
    snprintf(config, 1024, "%s", files_config(config, "'intermediate_size': 257"));
    snprintf(config, 1024, "%s", files_config(config, "'num_hidden_layers': 1"));
    return shaken_model(&c, 3, 1, NULL);
}

/* F8_E4M3 with a scale for each block of 128 x 128 */
TEST(files_fp8) {
    llm_model *model, *got;
    llm_model_desc d;
    files_weights w;
    files_tensor *t;
    llm_error err;
    size_t size, i, j, k;
    char *file, config[1024];
    const char *directory = files_directory("fp8");
    int64_t blocks[2];
    float scales[8];
    int n;
    model = files_uneven(config);
    if (!model) return;
    files_of_model(&w, model);
    files_accepted(config, &w, model);
    for (n = 0; n < 2; n++) {          /* (257,131): 3 x 2 blocks; (131,257): 2 x 3 */
        const llm_tensor view = llm_model_tensor(
            model, (size_t)(files_find(&w, n ? "model.layers.0.mlp.down_proj.weight"
                                             : "model.layers.0.mlp.up_proj.weight") - w.t));
        const size_t columns = (size_t)view.dims[1];
        char name[112];
        t = files_find(&w, view.name);
        t->dtype = "F8_E4M3";
        t->size /= 4;
        blocks[0] = (view.dims[0] + 127) / 128;
        blocks[1] = (view.dims[1] + 127) / 128;
        for (k = 0; k < 6; k++) scales[k] = 0.37f * (float)(k + 1);
        for (i = 0; i < (size_t)view.dims[0]; i++)
            for (j = 0; j < columns; j++) {
                unsigned bits = (unsigned)(i * columns + j) & 0xFF;
                if ((bits & 0x7F) == 0x7F) bits = 0;       /* NaN; 0x78 to 0x7E are numbers */
                t->data[i * columns + j] = (unsigned char)bits;
                ((float *)view.data)[i * columns + j] =
                    (float)((bits & 0x78) == 0x78
                                ? (bits & 0x80 ? -1.0 : 1.0) * (double)(8 + (bits & 7)) * 32.0
                                : files_value(bits, 4, 3)) *
                    scales[i / 128 * (size_t)blocks[1] + j / 128];
            }
        snprintf(name, sizeof name, "%s_scale_inv", view.name);
        files_add(&w, name, "F32", 2, blocks, scales, 24);
    }
    snprintf(config, sizeof config, "%s",
             files_config(config, "'quantization_config': {'quant_method': 'fp8', 'fmt': 'e4m3', "
                                  "'weight_block_size': [128, 128]}"));
    files_accepted(config, &w, model);
    files_write(directory, "config.json", config, strlen(config));
    files_write_shards(directory, &w); /* scales and weights in different files */
    files_write_index(directory, &w, NULL);
    got = files_load(directory, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    CHECK(!got || files_same_tensors(got, model));
    files_unload(got);
    d = files_desc();
    EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, got, llm_model_load(directory, &d, &err));
    CHECK(got && files_same_tensors(got, model));
    files_unload(got);
    files_add(&w, "model.layers.0.mlp.gate_proj.weight_scale_inv", "F32", 2, blocks, scales, 24);
    file = files_pack(&w, &size);      /* of a matrix that is F32 */
    files_refused(config, strlen(config), file, size, 0, LLM_ERR_UNSUPPORTED, "gate_proj", "scale");
    free(file);
    files_drop(&w, w.n - 1);
    for (n = 0; n < 7; n++) {          /* broken scales */
        static const char scale_name[] = "model.layers.0.mlp.up_proj.weight_scale_inv";
        files_tensor old;
        t = files_find(&w, scale_name);
        old = *t;
        scales[0] = n == 0 ? (float)NAN : n == 1 ? HUGE_VALF : 0.37f;
        if (n < 2) memcpy(t->data + 8, scales, 4);
        if (n == 2) t->dims[0] = 2, t->dims[1] = 3;        /* of the other way round */
        if (n == 3) t->n_dims = 1, t->dims[0] = 6;
        if (n == 4) snprintf(t->name, sizeof t->name, "model.layers.0.mlp.up_proj.bias_scale_inv");
        if (n == 5) t->dtype = "I32";
        if (n == 6) t->dims[1] = 1, t->size = 12;
        file = files_pack(&w, &size);
        files_check(files_load_memory(config, strlen(config), file, size, &err), &err, LLM_OK,
                    "safetensors in memory", "up_proj", "a scale");
        free(file);
        scales[0] = 1.11f;
        if (n < 2) memcpy(t->data + 8, scales, 4);
        *t = old;
    }
    files_free(&w);
    llm_model_free(model);
}

/* ---- several files --------------------------------------------------------------------------- */
TEST(files_shards) {
    static const char *const outside[] = {
        "\"../b.safetensors\"", "\"/b.safetensors\"", "\"..\"", "\".\"", "\"\"",
        "\"x/../b.safetensors\"", "\"shards/b.safetensors\"", "\"..\\\\b.safetensors\"",
        "\"x\\\\b.safetensors\"",
        "\"b.safetensors\\u0000\"", "\"\\u002e\\u002e/b.safetensors\"", "7", "null", "[]",
        "{\"a\":\"b.safetensors\"}"};
    static const char *const maps[] = {"{}", "[]", "{\"weight_map\":{}}", "{\"weight_map\":[]}",
                                       "{\"weight_map\":null}", "{\"weight_map\":\"a\"}"};
    llm_model *model = files_small(0, 4), *got;
    const char *directory = files_directory("shards"), *config;
    char name[300], text[400];
    files_weights w;
    llm_error err;
    size_t size, i, n;
    char *file;
    files_of_model(&w, model);
    config = files_config(files_gpt2, "'tie_word_embeddings': false");
    files_write(directory, "config.json", config, strlen(config));
    files_write_shards(directory, &w);
    files_write_index(directory, &w, NULL);
    got = files_load(directory, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    CHECK(!got || files_same_tensors(got, model));
    files_unload(got);
    snprintf(name, sizeof name, "%s/", directory);         /* a slash at the end, too */
    got = files_load(name, &err);
    CHECK(got != NULL);
    files_unload(got);

    for (i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        files_write_index(directory, &w, outside[i]);      /* refused before it is opened */
        files_refuses(directory, LLM_ERR_FORMAT, "shards/model.safetensors.index.json",
                      "shard name", outside[i]);
    }
    memset(name, 'x', sizeof name);
    snprintf(text, sizeof text, "\"%.*s\"", 299, name);
    files_write_index(directory, &w, text);
    files_refuses(directory, LLM_ERR_FORMAT, "index.json", "shard name", text);
    for (i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        files_write(directory, "model.safetensors.index.json", maps[i], strlen(maps[i]));
        files_refuses(directory, LLM_ERR_FORMAT, "shards/model.safetensors.index.json",
                      "weight_map", maps[i]);
    }
    files_write_index(directory, &w, "\"c.safetensors\"");
    files_refuses(directory, LLM_ERR_IO, "shards/c.safetensors", "", "missing");

    file = files_read(directory, "b.safetensors", &size);  /* a shard cut short, or not there */
    files_write_index(directory, &w, NULL);
    for (n = 0; n < size; n += 1 + size / 50) {
        files_write(directory, "b.safetensors", file, n);
        files_refuses(directory, LLM_ERR_FORMAT, "shards/b.safetensors", "", "a prefix");
    }
    free(file);
    snprintf(name, sizeof name, "%s/b.safetensors", directory);
    remove(name);
    files_refuses(directory, LLM_ERR_IO, "shards/b.safetensors", "", "missing");

    file = files_pack(&w, &size);                          /* b has all: a's are there twice */
    files_write(directory, "b.safetensors", file, size);
    files_refuses(directory, LLM_ERR_FORMAT, "shards/a.safetensors", "shards/b.safetensors",
                  "twice");
    files_write(directory, "model.safetensors", file, size);         /* goes before an index */
    got = files_load(directory, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    files_unload(got);
    free(file);
    (void)files_directory("shards");                       /* one is nowhere */
    files_write(directory, "config.json", config, strlen(config));
    files_write_shards(directory, &w);
    files_write_index(directory, &w, NULL);
    file = files_pack_some(&w, 3, 2, &size);
    files_write(directory, "b.safetensors", file, size);
    files_refuses(directory, LLM_ERR_FORMAT, "shards/", w.t[1].name, "missing");
    free(file);
    files_free(&w);
    llm_model_free(model);
}

/* one file whose metadata holds the configuration */
TEST(files_single) {
    llm_model *model = files_small(1, 1), *got;
    const char *directory = files_directory("single");
    char metadata[512] = "\"__metadata__\":{\"config\":\"", path[300];
    files_weights w;
    llm_error err;
    size_t size, i, n = strlen(metadata);
    char *file;
    files_of_model(&w, model);
    for (i = 0; files_gpt2[i]; i++) {
        if (files_gpt2[i] == '"') metadata[n++] = '\\';
        metadata[n++] = files_gpt2[i];
    }
    snprintf(metadata + n, sizeof metadata - n, "\"}");
    w.metadata = metadata;
    file = files_pack(&w, &size);
    files_write(directory, "a.safetensors", file, size);
    free(file);
    snprintf(path, sizeof path, "%s/a.safetensors", directory);
    got = files_load(path, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    CHECK(!got || files_same_tensors(got, model));
    files_unload(got);
    w.metadata = NULL;
    file = files_pack(&w, &size);
    files_write(directory, "a.safetensors", file, size);
    free(file);
    files_refuses(path, LLM_ERR_FORMAT, "a.safetensors", "config", "no config");
    files_free(&w);
    llm_model_free(model);
}

TEST(files_paths) {
    const char *directory = files_directory("paths");
    llm_model *model = files_small(1, 1);
    llm_error err;
    size_t size;
    char *file;
    static char path[10000];
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_load(NULL, NULL, &err), "NULL");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_load_memory(NULL, 0, "", 0, NULL, &err), "NULL");
    NOT_MADE(LLM_ERR_ARGUMENT, llm_model_load_memory("{}", 2, NULL, 0, NULL, &err), "NULL");
    CHECK(!llm_model_load(NULL, NULL, NULL) && !llm_model_load("build/files/none", NULL, NULL));
    files_refuses("build/files/none", LLM_ERR_IO, "build/files/none/config.json", "",
                  "no directory");
    files_refuses("build/files/none.safetensors", LLM_ERR_IO, "build/files/none.safetensors", "",
                  "no file");
    files_refuses(directory, LLM_ERR_IO, "paths/config.json", "", "no config");
    files_write(directory, "config.json", files_gpt2, strlen(files_gpt2));
    files_refuses(directory, LLM_ERR_IO, "paths/model.safetensors", "", "no weights");
    memset(path, 'x', 9999);
    path[9999] = 0;
    files_refuses(path, LLM_ERR_ARGUMENT, "xxx", "too long", "long");
#if LLMI_POSIX
    {                                  /* directories in the place of files */
        static const char *const names[] = {"model.safetensors", "model.safetensors.index.json",
                                            "config.json"};
        int i;
        for (i = 0; i < 3; i++) {
            (void)files_directory("paths");
            if (i < 2) files_write(directory, "config.json", files_gpt2, strlen(files_gpt2));
            sprintf(path, "%s/%s", directory, names[i]);
            files_mkdir(path);
            files_refuses(directory, LLM_ERR_IO, names[i], "", "a directory");
            CHECK(rmdir(path) == 0);
        }
    }
    {                                  /* as in a cache of downloads: the file's name still shows */
        char *at = path + sprintf(path, "%s", FILES);
        int i;
        for (i = 0; i < 4; i++) {
            at += sprintf(at, "/snapshots-0123456789abcdef0123456789abcdef%d", i);
            files_mkdir(path);
        }
        sprintf(at, "/config.json");
        remove(path);
        *at = 0;
        files_refuses(path, LLM_ERR_IO, "config.json", "", "deep");
        files_write(path, "config.json", files_gpt2, strlen(files_gpt2));
        files_write(path, "model.safetensors", "short", 5);
        files_refuses(path, LLM_ERR_FORMAT, "model.safetensors", "", "deep");
        files_write(path, "model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
        files_refuses(path, LLM_ERR_FORMAT, "model.safetensors", "transformer.wte.weight", "deep");
        files_write(path, "model.safetensors", "\2\0\0\0\0\0\0\0{]", 10);
        files_refuses(path, LLM_ERR_FORMAT, "model.safetensors", "at byte", "deep");
        files_write(path, "config.json", "{\"model_type\": \"llama\"}", 23);
        files_write(path, "model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
        files_refuses(path, LLM_ERR_UNSUPPORTED, "config.json", "llama", "deep");
    }
#endif
    file = files_pack_model(model, &size);         /* more at the end */
    file = (char *)realloc(file, size + 1);
    file[size] = 0;
    files_refused(files_gpt2, strlen(files_gpt2), file, size + 1, 0, LLM_ERR_FORMAT, "end at byte",
                  "more at the end");
    free(file);
    llm_model_free(model);
}

/* ---- configurations -------------------------------------------------------------------------- */
/* Each text, put into the configuration, is refused with this code; the message is about the
 * file config.json or the weights', and holds what is behind the text's |, or else the text's
 * first key. */
static void files_refused_configs(const char *base, const llm_model *model, int in_config,
                                  llm_result code, const char *const *texts, size_t n) {
    size_t size, i;
    char *file = files_pack_model(model, &size);
    for (i = 0; i < n; i++) {
        const char *bar = strstr(texts[i], " | "), *config;
        const size_t length = bar ? (size_t)(bar - texts[i]) : strlen(texts[i]);
        char text[256], key[64];
        snprintf(text, sizeof text, "%.*s", (int)length, texts[i]);
        snprintf(key, sizeof key, "%.*s", (int)strcspn(text + 1, "'"), text + 1);
        config = files_config(base, text);
        files_refused(config, strlen(config), file, size, in_config, code, bar ? bar + 3 : key,
                      text);
    }
    free(file);
}
#define FILES_REFUSED(base, model, in_config, code, texts) \
    files_refused_configs(base, model, in_config, code, texts, sizeof texts / sizeof texts[0])

TEST(files_gpt2_config) {
    static const char *const unsupported[] = {
        "'add_cross_attention': true", "'activation_function': 'quick_gelu'",
        "'activation_function': 'gelu_10' | gelu_10", "'activation_function': 'gelu_new '",
        "'pruned_heads': {'0': [0]}", "'quantization_config': {'quant_method': 'fp8'}",
        "'model_type': 'llama' | llama", "'model_type': 'GPT2' | GPT2",
        "'num_attention_heads': 2", "'num_hidden_layers': '1'"};
    static const char *const malformed[] = {
        "'reorder_and_upcast_attn': 'yes'", "'model_type': null", "'tie_word_embeddings': 'true'",
        "'scale_attn_weights': 1", "'n_layer': 0", "'n_layer': -1", "'n_layer': 1.0",
        "'n_layer': '1'", "'n_layer': true", "'n_layer': [1]", "'n_layer': 4294967297",
        "'n_layer': 18446744073709551617", "'n_embd': 0", "'n_inner': 0", "'n_inner': -8",
        "'layer_norm_epsilon': -1e-5", "'layer_norm_epsilon': '1e-5'",
        "'layer_norm_epsilon': 1e999", "'attn_pdrop': -0.1"};
    /* values of other types, or that no model can have: of the file, so the file is named */
    static const char *const impossible[] = {
        "'activation_function': 7", "'model_type': 2",
        "'n_head': 3 | 3", "'attn_pdrop': 1", "'layer_norm_epsilon': 2 | 2",
        "'n_layer': 20000 | 20000", "'vocab_size': 2147483647 | 2147483647"};
    llm_model *model = files_small(1, 1);
    FILES_REFUSED(files_gpt2, model, 1, LLM_ERR_UNSUPPORTED, unsupported);
    FILES_REFUSED(files_gpt2, model, 1, LLM_ERR_FORMAT, malformed);
    FILES_REFUSED(files_gpt2, model, 1, LLM_OK, impossible);
    llm_model_free(model);
}

/* A zero is a value, not the absence of one: the default in its place would change what the model
 * computes. */
TEST(files_zeros_in_config) {
    static const char *const gpt2[] = {"'layer_norm_epsilon': 0", "'layer_norm_epsilon': 0.0"};
    static const char *const deepseek[] = {
        "'rms_norm_eps': 0", "'routed_scaling_factor': 0", "'rope_theta': 0",
        "'rope_theta': 0, 'rope_parameters': {}",
        "'rope_scaling': {'type': 'yarn', 'factor': 0.0} | factor"};
    llm_config c = files_deepseek_config();
    llm_model *a = files_small(1, 1), *b = shaken_model(&c, 2, 1, NULL);
    FILES_REFUSED(files_gpt2, a, 1, LLM_OK, gpt2);
    FILES_REFUSED(files_deepseek, b, 1, LLM_OK, deepseek);
    llm_model_free(a);
    llm_model_free(b);
}

TEST(files_deepseek_config) {
    static const char *const unsupported[] = {
        "'rope_scaling': {'type': 'linear', 'factor': 2.0} | linear",
        "'rope_scaling': {'rope_type': 'dynamic', 'factor': 2.0} | dynamic",
        "'rope_scaling': {'rope_type': 'llama3', 'factor': 2.0} | llama3",
        "'rope_parameters': {'rope_type': 'longrope', 'factor': 2.0} | longrope",
        "'rope_scaling': {'type': 'yarn', 'factor': 4, 'attention_factor': 1.5} | attention_factor",
        "'rope_scaling': {'type': 'yarn', 'factor': 4, 'truncate': false} | truncate",
        "'rope_scaling': {'type': 'yarn', 'factor': 4, 'partial_rotary_factor': 0.5}"
        " | partial_rotary_factor",
        "'partial_rotary_factor': 0.5, 'rope_scaling': {'type': 'yarn', 'factor': 4}",
        "'quantization_config': {'quant_method': 'gptq'} | quant_method",
        "'quantization_config': {} | quant_method",
        "'quantization_config': {'quant_method': 'fp8', 'fmt': 'e5m2'} | fmt",
        "'quantization_config': {'quant_method': 'fp8', 'weight_block_size': [64, 128]}"
        " | weight_block_size",
        "'quantization_config': {'quant_method': 'fp8', 'weight_block_size': [128]}"
        " | weight_block_size",
        "'quantization_config': {'quant_method': 'fp8', 'weight_block_size': 128}"
        " | weight_block_size",
        "'hidden_act': 'gelu'", "'scoring_func': 'softmax'", "'topk_method': 'greedy'",
        "'moe_layer_freq': 2", "'num_key_value_heads': 1", "'num_local_experts': 8",
        "'num_nextn_predict_layers': 0, 'num_mtp_layers': 1 | num_mtp_layers"};
    static const char *const malformed[] = {
        "'rope_scaling': 2.0 | rope", "'rope_scaling': 'yarn' | rope",
        "'rope_scaling': {'type': 'yarn', 'factor': -4} | factor", "'q_lora_rank': -1",
        "'kv_lora_rank': 0", "'n_routed_experts': '4'", "'routed_scaling_factor': -2.5",
        "'attention_bias': 1"};
    static const char *const impossible[] = {
        "'rope_parameters': {'rope_type': 3} | rope_type", "'quantization_config': 8 | quant",
        "'n_group': 3 | n_group 3", "'topk_group': 3 | topk_group 3",
        "'num_experts_per_tok': 3 | per_tok 3", "'qk_rope_head_dim': 3 | head_dim 3",
        "'rope_theta': 0.5 | rope_theta 0.5"};
    /* tensors that the configuration does not have, or lacks */
    static const char *const lacking[] = {
        "'attention_bias': true | model.layers.0.self_attn.q_a_proj.bias",
        "'q_lora_rank': null | model.layers.0.self_attn.q_proj.weight",
        "'n_routed_experts': 6 | model.layers.1.mlp.gate.weight",
        "'first_k_dense_replace': 0 | model.layers.0.mlp.gate.weight",
        "'n_shared_experts': 2 | model.layers.1.mlp.shared_experts.gate_proj.weight",
        "'tie_word_embeddings': true | lm_head.weight"};
    static const char *const more[] = {"'n_shared_experts': 0 | model.layers.1.mlp.shared_experts"};
    llm_config c = files_deepseek_config();
    llm_model *model = shaken_model(&c, 2, 1, NULL);
    if (!model) return;
    FILES_REFUSED(files_deepseek, model, 1, LLM_ERR_UNSUPPORTED, unsupported);
    FILES_REFUSED(files_deepseek, model, 1, LLM_ERR_FORMAT, malformed);
    FILES_REFUSED(files_deepseek, model, 1, LLM_OK, impossible);
    FILES_REFUSED(files_deepseek, model, 0, LLM_ERR_FORMAT, lacking);
    FILES_REFUSED(files_deepseek, model, 0, LLM_ERR_UNSUPPORTED, more);
    llm_model_free(model);
}

/* null where true is the default: None, and so false, to transformers */
TEST(files_null_is_false) {
    llm_config c = files_deepseek_config();
    llm_model *model = shaken_model(&c, 2, 1, NULL), *got;
    llm_error err;
    size_t size;
    const char *config;
    char *file;
    if (!model) return;
    file = files_pack_model(model, &size);
    config = files_config(files_deepseek, "'rope_interleave': null");
    got = files_load_memory(config, strlen(config), file, size, &err);
    CHECK(got && llm_model_config(got)->rope_half_split && llm_model_config(got)->norm_topk_prob);
    files_unload(got);
    config = files_config(files_deepseek, "'norm_topk_prob': null");
    got = files_load_memory(config, strlen(config), file, size, &err);
    CHECK(got && !llm_model_config(got)->rope_half_split && !llm_model_config(got)->norm_topk_prob);
    files_unload(got);
    free(file);
    llm_model_free(model);
}

/* DeepSeek's configuration as it was and as transformers 5 writes it: the same model */
TEST(files_deepseek_styles) {
#define FILES_YARN_BUT                                                        \
    "'factor': 8, 'beta_fast': 24, 'beta_slow': 2, 'mscale': 0.75, 'mscale_all_dim': 0.5"
#define FILES_YARN FILES_YARN_BUT ", 'original_max_position_embeddings': 16"
    static const struct { const char *text; float theta; int yarn;
    } cases[] = {
        {"'rope_theta': 500", 500.0f, 0},
        {"'rope_theta': 500, 'rope_scaling': null", 500.0f, 0},
        {"'rope_theta': 500, 'rope_scaling': {}", 500.0f, 0},
        {"'rope_scaling': null, 'rope_parameters': null", 10000.0f, 0},
        {"'rope_parameters': {'rope_type': 'default', 'rope_theta': 500.0}", 500.0f, 0},
        {"'rope_parameters': {'rope_type': 'default'}, 'rope_theta': 500.0", 500.0f, 0},
        {"'rope_theta': 500, 'rope_scaling': {'type': 'yarn', " FILES_YARN "}", 500.0f, 1},
        {"'rope_scaling': {'type': 'yarn', " FILES_YARN "}", 10000.0f, 1},
        {"'rope_theta': 500, 'rope_scaling': {'rope_type': 'yarn', " FILES_YARN "}", 500.0f, 1},
        {"'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 500, " FILES_YARN "}", 500.0f, 1},
        {"'rope_parameters': {'rope_type': 'yarn', 'type': 'yarn', 'rope_theta': 500, " FILES_YARN
         "}", 500.0f, 1},
        {"'rope_parameters': null, 'rope_scaling': {'type': 'yarn', " FILES_YARN "}", 10000.0f, 1},
        {"'original_max_position_embeddings': 16, 'rope_scaling': {'type': 'yarn', " FILES_YARN_BUT
         "}", 10000.0f, 1},
        {"'original_max_position_embeddings': 16, 'rope_scaling': {'type': 'yarn', " FILES_YARN_BUT
         ", 'original_max_position_embeddings': 9}", 10000.0f, 1},
        {"'num_local_experts': 4, 'rope_theta': 500", 500.0f, 0},
        /* where both are given, the old one counts, as in transformers */
        {"'rope_parameters': {'rope_type': 'default', 'rope_theta': 7.0}, 'rope_theta': 500, "
         "'rope_scaling': {'type': 'yarn', " FILES_YARN "}", 500.0f, 1}};
    llm_config c = files_deepseek_config();
    llm_model *model = shaken_model(&c, 2, 1, NULL), *got;
    llm_error err;
    size_t size, i;
    char *file;
    if (!model) return;
    file = files_pack_model(model, &size);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *config = files_config(files_deepseek, cases[i].text);
        llm_config want;
        c = files_deepseek_config();
        c.rope_theta = cases[i].theta;
        if (cases[i].yarn) set_yarn(&c, 8.0f, 16, 24.0f, 2.0f, 0.75f, 0.5f);
        got = llm_model_create(&c, NULL, &err);            /* for the defaults */
        CHECK_MSG(got != NULL, "%s", err.message);
        if (got) want = *llm_model_config(got);
        else continue;
        llm_model_free(got);
        got = files_load_memory(config, strlen(config), file, size, &err);
        CHECK_MSG(got != NULL, "%s: %s", cases[i].text, err.message);
        CHECK_MSG(!got || !memcmp(llm_model_config(got), &want, sizeof want),
                  "%s: another configuration: theta %g, factor %g", cases[i].text,
                  got ? (double)llm_model_config(got)->rope_theta : 0.0,
                  got ? (double)llm_model_config(got)->yarn_factor : 0.0);
        files_unload(got);
    }
    free(file);
    llm_model_free(model);
}

/* the largest floats, which 9 digits round up */
TEST(files_largest_floats) {
    llm_config c = files_deepseek_config();
    const char *directory = files_directory("largest");
    llm_model *model, *got;
    llm_error err;
    c.rope_theta = c.routed_scaling_factor = FLT_MAX;
    c.yarn_factor = c.yarn_mscale = 1e30f;
    c.yarn_original_max_seq_len = 4;
    model = llm_model_create(&c, NULL, &err);
    CHECK_MSG(model && llm_model_save(model, directory, LLM_F32, &err) == LLM_OK, "%s",
              err.message);
    got = files_load(directory, &err);
    CHECK_MSG(got && !memcmp(llm_model_config(got), llm_model_config(model), sizeof c), "%s",
              err.message);
    files_unload(got);
    llm_model_free(model);
}

#if LLMI_POSIX
TEST(files_directory_is_no_file) {
    const char *path = files_directory("no_file");
    llm_data_desc d;
    llm_error err;
    memset(&d, 0, sizeof d);
    d.batch_size = d.seq_len = 1;
    NOT_MADE(LLM_ERR_IO, llm_data_open(&path, 1, &d, &err), "no_file", "directory");
}
#endif

/* A configuration may ask for more than there is memory: the files show that it is not there before
 * any is taken. */
TEST(files_large_claims) {
    static const char *const claims[] = {
        "'model_type': 'gpt2'",
        "'model_type': 'deepseek_v3'",
        "'model_type': 'gpt2', 'n_layer': 10000, 'n_embd': 1, 'n_head': 1",
        "'model_type': 'gpt2', 'n_embd': 1048576, 'n_layer': 1",
        "'model_type': 'deepseek_v3', 'n_routed_experts': 65536, 'num_hidden_layers': 80",
        "'model_type': 'deepseek_v3', 'n_shared_experts': 1024, 'moe_intermediate_size': 16777216"};
    llm_model *model = files_small(1, 1);
    llm_error err;
    size_t size, i;
    char *file;
    file = files_pack_model(model, &size);
    for (i = 0; i < sizeof claims / sizeof claims[0]; i++) {
        llm_model_desc d = files_desc();
        const char *config = files_config("{\"model_type\": \"\"}", claims[i]);
        const double start = llmi_seconds();
        llm_model *got;
        files_heap.limit = (size_t)1 << 22;
        memset(&err, 0, sizeof err);
        got = files_loaded(llm_model_load_memory(config, strlen(config), file, size, &d, &err),
                           &err);
        files_check(got, &err, LLM_ERR_FORMAT, "memory", "", claims[i]);
        CHECK_MSG(files_heap.largest < (size_t)1 << 22, "%s: %lu bytes were asked for", claims[i],
                  (unsigned long)files_heap.largest);
        CHECK_MSG(llmi_seconds() - start < 1.0, "%s took seconds", claims[i]);
    }
    free(file);
    llm_model_free(model);
}

/* ---- saving ---------------------------------------------------------------------------------- */
/* Saved and loaded: the same model. With `all`, saved again from that: the same files; and in bf16.
 * Not for each model: every save waits for the disk. */
static void files_round_trip(llm_model *model, int all) {
    static const char *const reals[] = {"\"routed_scaling_factor\":", "\"rope_theta\":",
                                        "\"rms_norm_eps\":", "\"attention_dropout\":",
                                        "\"layer_norm_epsilon\":", "\"factor\":",
                                        "\"beta_slow\":", "\"mscale\":"};
    const char *a = files_directory("trip_a"), *b = files_directory("trip_b");
    size_t n = 0, m = 0, data, i;
    char *x, *y;
    llm_error err;
    llm_model *got;
    CHECK_MSG(llm_model_save(model, a, LLM_F32, &err) == LLM_OK, "%s", err.message);
    CHECK(files_count(a) == 3 || files_count(a) == -1);
    x = files_read(a, "config.json", &n);
    for (i = 0; i < sizeof reals / sizeof reals[0]; i++) { /* transformers: 1 is not 1.0 */
        const char *number = strstr(x, reals[i]);
        if (!number) continue;
        number += strlen(reals[i]);
        CHECK_MSG(memchr(number, '.', strcspn(number, ",\n")) ||
                      memchr(number, 'e', strcspn(number, ",\n")), "%s%.9s", reals[i], number);
    }
    free(x);
    got = files_load(a, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    if (!got) return;
    CHECK(files_same_tensors(got, model));
    CHECK(!memcmp(llm_model_config(got), llm_model_config(model), sizeof(llm_config)));
    if (!all) {
        files_unload(got);
        return;
    }
    CHECK(llm_model_save(got, b, LLM_F32, &err) == LLM_OK);
    CHECK(files_same(a, b, "model.safetensors") && files_same(a, b, "config.json"));
    CHECK(llm_model_save(got, b, LLM_BF16, &err) == LLM_OK);
    CHECK(!files_same(a, b, "model.safetensors") && !files_same(a, b, "config.json"));
    CHECK(llm_model_save(got, b, LLM_F32, &err) == LLM_OK);          /* over another */
    CHECK(files_same(a, b, "model.safetensors") && files_same(a, b, "config.json"));
    files_unload(got);
    /* what bf16 cannot hold is lost once */
    CHECK(llm_model_save(model, a, LLM_BF16, &err) == LLM_OK);
    got = files_load(a, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    if (!got) return;
    CHECK(llm_model_save(got, b, LLM_BF16, &err) == LLM_OK);
    files_unload(got);
    got = files_load(b, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    files_unload(got);
    x = files_read(a, "model.safetensors", &n);
    y = files_read(b, "model.safetensors", &m);
    data = files_data(x, n);
    CHECK(n == m && n > data && !memcmp(x, y, 8) && !memcmp(x + data, y + data, n - data));
    free(x);
    free(y);
}

TEST(files_round_trips) {
    static const uint32_t odd[] = {0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00001u, 0x7f800001u,
                                   0x00000001u, 0x807fffffu, 0x7f7fffffu, 0x3f808000u, 0x3f818000u};
    llm_config c = small_config(11, 5, 6, 2, 3);
    int tied, kind;
    for (tied = 0; tied < 2; tied++) {
        llm_model *model;
        c.tie_embeddings = tied;
        c.d_ffn = tied ? 0 : 7;
        c.norm_eps = tied ? 0.0f : 1.7e-6f;
        c.embd_pdrop = tied ? 0.0f : 0.1f;
        c.attn_pdrop = tied ? 0.0f : 0.3f;
        c.resid_pdrop = 1.0f / 3.0f;
        model = shaken_model(&c, 7, 1, NULL);
        if (model) memcpy(llm_model_tensor(model, 1).data, odd, sizeof odd);
        if (model) files_round_trip(model, !tied);
        llm_model_free(model);
    }
    for (kind = 0; kind < 8; kind++) { /* all MoE, dense, full-rank query, biases, YaRN, MTP */
        llm_model *model;
        c = files_deepseek_config();
        c.tie_embeddings = kind % 2;
        if (kind == 1) c.first_k_dense = 0;
        if (kind == 6) c.mtp_depth = 2, c.first_k_dense = 2;
        if (kind == 7) c.mtp_depth = 1;
        if (kind == 2 || kind == 7)
            c.n_routed_experts = c.n_shared_experts = c.num_experts_per_tok = c.n_group =
                c.topk_group = c.moe_d_ffn = c.first_k_dense = c.norm_topk_prob = 0,
            c.routed_scaling_factor = 0.0f;
        if (kind == 3) c.q_lora_rank = 0, c.rope_half_split = 1, c.norm_topk_prob = 0;
        if (kind == 4) c.attention_bias = 1, c.n_shared_experts = 0, c.rope_theta = 123.456f;
        if (kind == 5) set_yarn(&c, 3.7f, 17, 31.5f, 1.5f, 0.707f, 0.9f);
        model = shaken_model(&c, 8, 1, NULL);
        if (model) files_round_trip(model, kind == 5);
        llm_model_free(model);
    }
}

TEST(files_save_bf16) {                /* to nearest, ties to even, by the definition */
    llm_config c = small_config(512, 2, 16, 1, 1);
    llm_model *model = shaken_model(&c, 7, 1, NULL), *got;
    const char *directory = files_directory("bf16");
    llm_error err;
    float *values;
    size_t i, bad = 0;
    if (!model) return;
    values = (float *)llm_model_tensor(model, 0).data;
    for (i = 0; i < 8192; i++) {
        uint32_t bits = (uint32_t)llm_random(3, i);
        if (i % 4 == 1) bits = (bits & 0xffff0000u) | 0x8000u;       /* ties */
        if (i % 4 == 2) bits = (bits & 0xffff0000u) | 0x7fffu;
        if (i % 64 == 3) bits |= 0x7f7f0000u;                        /* near the largest */
        if (i % 64 == 7) bits &= 0x807fffffu;                        /* near zero */
        if (i % 64 == 11) bits = (bits & 0x8000ffffu) | 0x7f800001u; /* NaN, by its last bits */
        memcpy(values + i, &bits, 4);
    }
    CHECK(llm_model_save(model, directory, LLM_BF16, &err) == LLM_OK);
    got = files_load(directory, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    for (i = 0; got && i < 8192; i++) {
        const float back = ((float *)llm_model_tensor(got, 0).data)[i];
        const double value = fabs((double)values[i]);
        uint32_t bits;
        unsigned low;
        double below, above, want;
        memcpy(&bits, values + i, 4);
        low = bits >> 16 & 0x7fff;
        below = files_value(low, 8, 7);
        above = low < 0x7f7f ? files_value(low + 1, 8, 7) : ldexp(1.0, 128);
        want = value - below < above - value || (value - below <= above - value && !(low & 1))
                   ? below : above;
        if (want >= ldexp(1.0, 128)) want = HUGE_VAL;
        if (values[i] != values[i]) want = (double)NAN;
        bad += !files_is(back, signbit(values[i]) ? -want : want);
    }
    CHECK_MSG(bad == 0, "%lu values differ", (unsigned long)bad);
    files_unload(got);
    llm_model_free(model);
}

TEST(files_generations) {
    llm_model *a = files_small(1, 1), *b = files_small(1, 1), *got;
    const char *one = files_directory("one"), *two = files_directory("two");
    llm_error err;
    size_t n = 0;
    char *text;
    CHECK(llm_model_save(a, one, LLM_F32, &err) == LLM_OK &&
          llm_model_save(b, two, LLM_F32, &err) == LLM_OK);
    CHECK(files_same(one, two, "model.safetensors") && files_same(one, two, "config.json"));
    ((float *)llm_model_tensor(b, 15).data)[1] += 1e-6f;   /* the very last weight */
    CHECK(llm_model_save(b, two, LLM_F32, &err) == LLM_OK);
    text = files_read(one, "config.json", &n);
    files_write(two, "config.json", text, n);              /* old configuration, new weights */
    files_refuses(two, LLM_ERR_FORMAT, "two/config.json", "two/model.safetensors", "mixed");
    CHECK(llm_model_save(a, two, LLM_BF16, &err) == LLM_OK);
    files_write(two, "config.json", text, n);
    files_refuses(two, LLM_ERR_FORMAT, "two/config.json", "two/model.safetensors", "mixed");
    CHECK(llm_model_save(a, two, LLM_F32, &err) == LLM_OK);
    files_write(two, "config.json", files_gpt2, strlen(files_gpt2));
    got = files_load(two, &err);                           /* somebody else's configuration */
    CHECK_MSG(got != NULL, "%s", err.message);
    files_unload(got);
    free(text);
    llm_model_free(a);
    llm_model_free(b);
}

/* A save that fails leaves the directory as it was: it still loads, and nothing is left over. */
static void files_save_fails(const llm_model *model, const llm_model *old, const char *directory,
                             const char *about) {
    const char *before = files_directory("before");
    llm_model *got;
    llm_error err;
    llm_result result;
    const int count = files_count(directory);
    CHECK(llm_model_save(old, before, LLM_F32, &err) == LLM_OK);
    memset(&err, 0, sizeof err);
    result = llm_model_save(model, directory, LLM_F32, &err);
    CHECK_MSG(result == LLM_ERR_IO && err.code == LLM_ERR_IO && strstr(err.message, directory),
              "%s: result %d: %s", about, (int)result, err.message);
    CHECK_MSG(files_same(before, directory, "model.safetensors") &&
                  files_same(before, directory, "config.json"), "%s: not the old files", about);
    CHECK_MSG(files_count(directory) == count, "%s: %d files instead of %d", about,
              files_count(directory), count);
    got = files_load(directory, &err);
    CHECK_MSG(got != NULL, "%s: %s", about, err.message);
    files_unload(got);
}

TEST(files_save_fails) {
    llm_model *old = files_small(1, 1), *fresh = files_small(1, 2);
    const char *directory = files_directory("kept");
    llm_error err;
    char path[300];
    REFUSED(LLM_ERR_ARGUMENT, llm_model_save(NULL, directory, LLM_F32, &err), "NULL");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_save(old, NULL, LLM_F32, &err), "NULL");
    REFUSED(LLM_ERR_UNSUPPORTED, llm_model_save(old, directory, LLM_F16, &err), "F32", "BF16");
    REFUSED(LLM_ERR_UNSUPPORTED, llm_model_save(old, directory, (llm_dtype)99, &err), "99");
    REFUSED(LLM_ERR_IO, llm_model_save(old, FILES "/none/within", LLM_F32, &err), "none/within");
    files_write(directory, "a.safetensors", "", 0);
    snprintf(path, sizeof path, "%s/a.safetensors", directory);
    REFUSED(LLM_ERR_IO, llm_model_save(old, path, LLM_F32, &err), "a.safetensors"); /* a file */
    remove(path);
    CHECK(llm_model_save(old, directory, LLM_F32, NULL) == LLM_OK);
#if LLMI_POSIX
    {   /* files that cannot be written, even by root: directories of their temporary names */
        static const char *const names[] = {"model.safetensors", "config.json"};
        int i;
        for (i = 0; i < 2; i++) {
            snprintf(path, sizeof path, "%s/%s.tmp", directory, names[i]);
            files_mkdir(path);
            files_save_fails(fresh, old, directory, names[i]);
            CHECK(rmdir(path) == 0);
            CHECK(llm_model_save(old, directory, LLM_F32, NULL) == LLM_OK);
        }
        /* and a directory of its own name */
        snprintf(path, sizeof path, "%s/generation_config.json", directory);
        CHECK(remove(path) == 0);
        files_mkdir(path);
        REFUSED(LLM_ERR_IO, llm_model_save(fresh, directory, LLM_F32, &err),
                "generation_config.json", "no regular file");
        CHECK(files_count(directory) == 3);
        CHECK(rmdir(path) == 0);
        {   /* a temporary file that is being written is left alone, one that is not is removed */
            llmi_writer theirs;
            snprintf(path, sizeof path, "%s/config.json", directory);
            CHECK(llmi_writer_open(&theirs, path, 1, &err) == LLM_OK);
            files_save_fails(fresh, old, directory, "theirs");
            CHECK(llmi_file_write(path, "mine", 4, &err) == LLM_OK);     /* by the next name */
            CHECK(llmi_writer_add(&theirs, "theirs", 6, &err) == LLM_OK &&
                  llmi_writer_finish(&theirs, &err) == LLM_OK &&
                  llmi_writer_rename(&theirs, &err) == LLM_OK);
            files_write(directory, "config.json.tmp", "nobody's", 8);
            files_write(directory, "config.json.tmp7", "nobody's", 8);
            files_write(directory, "model.safetensors.tmp", "nobody's", 8);
            CHECK(llm_model_save(old, directory, LLM_F32, NULL) == LLM_OK);
            CHECK(files_count(directory) == 3);
        }
        snprintf(path, sizeof path, "%s/device", directory);
        /* no device becomes a file */
        CHECK(symlink("/dev/null", path) == 0);
        REFUSED(LLM_ERR_IO, llmi_file_write(path, "x", 1, &err), "device", "regular");
        CHECK(remove(path) == 0);
    }
#if !defined(__APPLE__)
    {   /* a disk that is full after so many bytes */
        static const rlim_t limits[] = {0, 7, 1000, 1700};
        struct rlimit limit, old_limit;
        size_t i;
        void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
        CHECK(getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
        for (i = 0; i < sizeof limits / sizeof limits[0]; i++) {
            llm_result result;
            const int count = files_count(directory);
            limit = old_limit;
            limit.rlim_cur = limits[i];
            fflush(stdout);
            CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
            memset(&err, 0, sizeof err);
            result = llm_model_save(fresh, directory, LLM_F32, &err);
            CHECK(setrlimit(RLIMIT_FSIZE, &old_limit) == 0);
            CHECK_MSG(result == LLM_ERR_IO && err.code == result && strstr(err.message, "kept/"),
                      "full at %ld: result %d: %s", (long)limits[i], (int)result, err.message);
            CHECK(files_count(directory) == count);
            CHECK(files_same(FILES "/before", directory, "model.safetensors") &&
                  files_same(FILES "/before", directory, "config.json"));
        }
        signal(SIGXFSZ, handler);
    }
#endif
#endif
    CHECK(llm_model_save(fresh, directory, LLM_F32, &err) == LLM_OK);
    CHECK(files_count(directory) == 3 || files_count(directory) == -1);
    llm_model_free(old);
    llm_model_free(fresh);
}

TEST(files_locale) {                   /* where numbers have a decimal comma */
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8",
                                        "fr_FR.utf8"};
    llm_config c = files_deepseek_config();
    llm_model *model;
    size_t i;
    int found = 0;
    c.yarn_factor = 2.5f;
    c.yarn_original_max_seq_len = 17;
    model = shaken_model(&c, 1, 1, NULL);
    if (!model) return;
    for (i = 0; i < sizeof names / sizeof names[0] && !found; i++)
        found = setlocale(LC_NUMERIC, names[i]) != NULL;
    files_round_trip(model, 0);
    setlocale(LC_NUMERIC, "C");
    llm_model_free(model);
    if (!found) SKIP("no such locale here");
}

/* ---- memory ---------------------------------------------------------------------------------- */
static llm_result files_save_counted(const llm_model *model, const char *directory,
                                     llm_error *err) {
    llm_result result = llm_model_save(model, directory, LLM_F32, err);
    CHECK(files_count(directory) == 3 || files_count(directory) == -1);
    return result;
}

TEST(files_every_allocation_fails) {
    llm_config c = files_deepseek_config();
    const char *directory = files_directory("memory"), *saved = files_directory("memory_saved");
    llm_model *model = shaken_model(&c, 1, 1, NULL), *got = NULL, *small = files_small(1, 1);
    const llm_model_desc d = files_desc();
    files_weights w;
    llm_error err;
    size_t size;
    char *file;
    if (!model) return;
    files_of_model(&w, model);
    files_write(directory, "config.json", files_deepseek, strlen(files_deepseek));
    files_write_shards(directory, &w);
    files_write_index(directory, &w, NULL);
    EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, got, llm_model_load(directory, &d, &err));
    CHECK(got && files_same_tensors(got, model));
    files_unload(got);
    files_none_mapped();
    file = files_pack(&w, &size);
    EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, got,
                                  llm_model_load_memory(files_deepseek, strlen(files_deepseek),
                                                        file, size, &d, &err));
    CHECK(got != NULL);
    CHECK(llm_model_save(small, saved, LLM_F32, &err) == LLM_OK);
    if (got) EACH_ALLOCATION_FAILS(&files_heap, files_save_counted(got, saved, &err));
    files_unload(got);
    got = files_load(saved, &err);
    CHECK(got && files_same_tensors(got, model));
    files_unload(got);
    free(file);
    files_free(&w);
    llm_model_free(model);
    llm_model_free(small);
}

/* generation_config.json comes before config.json, key by key */
TEST(files_special_tokens) {
    static const struct {
        const char *config, *generation;       /* what they add; NULL: no such file */
        int bos, pad, n_eos, eos[2];
    } good[] = {
        {"", NULL, -1, -1, 0, {0, 0}},
        {"\"bos_token_id\": 1, \"eos_token_id\": 2,", NULL, 1, -1, 1, {2, 0}},
        {"\"bos_token_id\": 1, \"eos_token_id\": 2,", "\"eos_token_id\": [0, 1]", 1, -1, 2, {0, 1}},
        {"\"bos_token_id\": 1, \"eos_token_id\": [2, -1],", "\"bos_token_id\": null,"
         "\"pad_token_id\": 0", -1, 0, 1, {2, 0}},
        {"\"eos_token_id\": [0, 1],", "\"eos_token_id\": 2", -1, -1, 1, {2, 0}},
        {"\"eos_token_id\": 50256, \"pad_token_id\": -1,", "", -1, -1, 1, {50256, 0}}};
    static const char *const bad[] = {"\"bos_token_id\": \"a\",", "\"eos_token_id\": [1.5],",
        "\"pad_token_id\": [1, 2],", "\"eos_token_id\": 3000000000,",
        "\"eos_token_id\": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"};
    const char *directory = files_directory("special");
    llm_model *model = files_small(1, 5), *got;
    llm_special_tokens s;
    llm_error err;
    char text[1024], *config;
    size_t size, i;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    config = files_read(directory, "config.json", &size);
    CHECK(config != NULL);
    if (!config) return;
    *strstr(config, "\"bos_token_id\"") = 0;            /* cut off: bos, eos, and the generation */
    for (i = 0; i < sizeof good / sizeof good[0]; i++) {
        snprintf(text, sizeof text, "%s%s\"dtype\": \"float32\"}", config, good[i].config);
        files_write(directory, "config.json", text, strlen(text));
        remove("build/files/special/generation_config.json");
        snprintf(text, sizeof text, "{%s}", good[i].generation ? good[i].generation : "");
        if (good[i].generation)
            files_write(directory, "generation_config.json", text, strlen(text));
        got = files_load(directory, &err);
        CHECK_MSG(got != NULL, "%lu: %s", (unsigned long)i, err.message);
        s = llm_model_special_tokens(got);
        CHECK_MSG(s.bos == good[i].bos && s.pad == good[i].pad && s.n_eos == good[i].n_eos &&
                      s.eos[0] == good[i].eos[0] && s.eos[1] == good[i].eos[1],
                  "%lu: %d %d %d", (unsigned long)i, (int)s.bos, (int)s.pad, s.n_eos);
        files_unload(got);
    }
    remove("build/files/special/generation_config.json");
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "%s%s\"dtype\": \"float32\"}", config, bad[i]);
        files_write(directory, "config.json", text, strlen(text));
        got = files_load(directory, &err);
        CHECK_MSG(!got && strstr(err.message, "_token_id"), "%s", bad[i]);
    }
    s = llm_model_special_tokens(NULL);
    CHECK(s.bos == -1 && s.pad == -1 && s.n_eos == 0);
    REFUSED(LLM_ERR_ARGUMENT, llm_model_set_special_tokens(NULL, &s, &err), "model");
    REFUSED(LLM_ERR_ARGUMENT, llm_model_set_special_tokens(model, NULL, &err), "special");
    s.bos = 3;
    REFUSED(LLM_ERR_ARGUMENT, llm_model_set_special_tokens(model, &s, &err), "bos", "3", "2");
    s.bos = 2;
    s.n_eos = 17;
    REFUSED(LLM_ERR_ARGUMENT, llm_model_set_special_tokens(model, &s, &err), "n_eos", "17", "16");
    s.n_eos = 1;
    s.eos[0] = -1;
    REFUSED(LLM_ERR_ARGUMENT, llm_model_set_special_tokens(model, &s, &err), "eos", "-1");
    free(config);
    llm_model_free(model);
}

/* what lies beyond the last of eos is nobody's: it neither comes back nor changes what is saved */
TEST(files_special_tokens_rest) {
    const char *directory = files_directory("special_rest");
    llm_model *model = files_small(1, 1);
    llm_special_tokens special;
    char *text[2] = {NULL, NULL};
    llm_error err;
    size_t size;
    int i;
    for (i = 0; i < 2; i++) {
        memset(&special, i ? 0x55 : 0, sizeof special);
        special.bos = special.pad = -1;
        special.n_eos = 1;
        special.eos[0] = 2;
        CHECK(llm_model_set_special_tokens(model, &special, &err) == LLM_OK);
        CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
        text[i] = files_read(directory, "config.json", &size);
    }
    CHECK(text[0] && text[1] && !strcmp(text[0], text[1]));
    CHECK(llm_model_special_tokens(model).eos[1] == 0);
    for (i = 0; i < 2; i++) free(text[i]);
    llm_model_free(model);
}

#if LLMI_POSIX
/* Looks, whenever the save asks for memory, whether a program that is started then would inherit
 * open files, and locks with them. */
typedef struct files_inherited { int before[64], n_open, n_inherited; } files_inherited;

static void *files_allocate(size_t size, void *user) {
    files_inherited *seen = (files_inherited *)user;
    int i;
    for (i = 3; i < 64; i++) {
        const int flags = fcntl(i, F_GETFD);
        if (flags < 0 || seen->before[i]) continue;
        seen->n_open++;
        seen->n_inherited += !(flags & FD_CLOEXEC);
    }
    return malloc(size);
}
static void files_release(void *memory, size_t size, void *user) {
    (void)size; (void)user;
    free(memory);
}
#endif

TEST(files_not_inherited) {
#if LLMI_POSIX
    const char *directory = files_directory("inherited");
    llm_model *model = files_small(1, 1);
    llm_data_writer *writer;
    files_inherited seen;
    llm_allocator allocator;
    llm_model_desc desc;
    llm_error err;
    int i;
    memset(&seen, 0, sizeof seen);
    memset(&desc, 0, sizeof desc);
    for (i = 0; i < 64; i++) seen.before[i] = fcntl(i, F_GETFD) >= 0;
    allocator.allocate = files_allocate;
    allocator.release = files_release;
    allocator.user = &seen;
    desc.allocator = &allocator;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    llm_model_free(model);
    model = llm_model_load(directory, &desc, &err);
    CHECK(model && seen.n_open > 0);   /* the weights, while they are loaded */
    seen.n_open = 0;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    CHECK(seen.n_open > 0);            /* the directory, the journal */
    writer = llm_data_writer_open("build/files/inherited/tokens", 300, NULL, &err);
    free(files_allocate(1, &seen));
    llm_data_writer_free(writer);
    CHECK_MSG(seen.n_inherited == 0, "%d are", seen.n_inherited);
    llm_model_free(model);
#else
    SKIP("there is no file that programs inherit");
#endif
}

/* a journal that removes what it does not replace: the message says what is missing, and where */
TEST(files_journal_removes) {
    static const char *const names[] = {"config.json", "model.safetensors"};
    const char *directory = files_directory("journal_removes");
    llm_model *model = files_small(1, 1);
    char text[100];
    llm_error err;
    int i;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    for (i = 0; i < 2; i++) {
        snprintf(text, sizeof text, "{\"files\": [], \"remove\": [\"%s\"]}", names[i]);
        files_write(directory, "model.save.json", text, strlen(text));
        NOT_MADE(LLM_ERR_FORMAT, llm_model_load(directory, NULL, &err), "journal_removes",
                 names[i]);
    }
    llm_model_free(model);
}

/* a path that is too long is named, and is not called a device */
TEST(files_long_paths) {
    char path[5000];
    llm_error err;
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = 0;
    NOT_MADE(LLM_ERR_ARGUMENT, llm_data_writer_open(path, 5, NULL, &err), "4999", "xxxx");
#if LLMI_POSIX
    path[300] = 0;                     /* for a name; 255 bytes are usual */
    NOT_MADE(LLM_ERR_IO, llm_data_writer_open(path, 5, NULL, &err), "xxxx", strerror(ENAMETOOLONG));
#endif
}

/* shards above a size, their index; a save in the other form takes the old one's place */
TEST(files_sharded_save) {
    const char *directory = files_directory("sharded");
    llm_special_tokens special, loaded;
    llm_model *small = files_small(1, 3), *model, *got;
    llm_error err;
    size_t size;
    char *text;
    llm_result result;
    err.message[0] = 0;
    CHECK(llm_model_save(small, directory, LLM_F32, &err) == LLM_OK);
    model = llm_model_load(directory, NULL, &err);
    CHECK(model && files_same_tensors(small, model));
    if (!model) return;
    memset(&special, 0, sizeof special);
    special.bos = 1;
    special.pad = -1;
    special.n_eos = 2;
    special.eos[0] = 2;
    special.eos[1] = 0;
    CHECK(llm_model_set_special_tokens(model, &special, &err) == LLM_OK);
    result = llmi_model_save(model, directory, LLM_F32, 100, &err);
    CHECK_MSG(result == LLM_OK, "%s", err.message);
    CHECK(llmi_kind_of("build/files/sharded/model.safetensors") == LLMI_NO_FILE);
    got = files_load(directory, &err);
    CHECK_MSG(got && files_same_tensors(model, got), "%s", err.message);
    loaded = llm_model_special_tokens(got);
    CHECK(got && memcmp(&loaded, &special, sizeof special) == 0);
    text = files_read(directory, "model.safetensors.index.json", &size);
    CHECK(text && strstr(text, "\"transformer.h.0.ln_1.weight\": \"model-0000") &&
          strstr(text, "total_size"));
    free(text);
    text = files_read(directory, "generation_config.json", &size);
    CHECK(text && strstr(text, "\"eos_token_id\": [2, 0]"));
    free(text);
    files_unload(got);
    {                                  /* one shard of another save */
        llm_model *other = files_small(1, 4);
        const char *elsewhere = files_directory("sharded2");
        int n = 0;
        result = llmi_model_save(other, elsewhere, LLM_F32, 100, &err);
        CHECK(result == LLM_OK);
        text = files_read(elsewhere, "model.safetensors.index.json", &size);
        CHECK(text && sscanf(strstr(text, "-of-"), "-of-%d", &n) == 1 && n > 2);
        free(text);
        if (n > 2) {
            char name[64];
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", 2, n);
            text = files_read(elsewhere, name, &size);
            files_write(directory, name, text, size);
            free(text);
            files_refuses(directory, LLM_ERR_FORMAT, name, "different saves", "");
        }
        llm_model_free(other);
    }
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);      /* in one file again */
    CHECK(llmi_kind_of("build/files/sharded/model.safetensors.index.json") == LLMI_NO_FILE);
    got = files_load(directory, &err);
    CHECK_MSG(got && files_same_tensors(model, got), "%s", err.message);
    files_unload(got);
    llm_model_free(model);
    llm_model_free(small);
}

/* ---- mapped files ---------------------------------------------------------------------------- */
static int files_is_mapped(const llm_model *model, size_t i) { /* tensor i, into one of the maps */
    size_t m;
    for (m = 0; m < model->n_maps; m++)
        if (model->maps[m].start && (char *)model->values[i].data >= model->maps[m].start &&
            (char *)model->values[i].data < model->maps[m].start + model->maps[m].size)
            return 1;
    return 0;
}
static size_t files_mapped_count(const llm_model *model) {
    size_t i, n = 0;
    for (i = 0; i < model->table.n; i++) n += (size_t)files_is_mapped(model, i);
    return n;
}
/* a DeepSeek with experts and an MTP module, or a GPT-2 */
static llm_model *files_larger(int deepseek) {
    llm_config c = small_config(19, 16, 12, 2, 3);
    if (deepseek) {
        c = files_deepseek_config();
        c.mtp_depth = 1;
    }
    return shaken_model(&c, 5, 1, NULL);
}
/* two models compute the same, in one call and token by token, to the bit */
static void files_same_logits(const llm_model *a, const llm_model *b) {
    const size_t n = 12 * (size_t)llm_model_config(a)->vocab_size;
    float *x = new_floats(n), *y = new_floats(n);
    int32_t tokens[12];
    int way;
    for (way = 0; way < 2; way++) {
        llm_session *s = NULL, *t = NULL;
        int i;
        random_tokens(tokens, 12, llm_model_config(a)->vocab_size, 3);
        if (way == 0) {
            CHECK(llm_model_logits(a, tokens, 1, 12, x, NULL) == LLM_OK &&
                  llm_model_logits(b, tokens, 1, 12, y, NULL) == LLM_OK);
            CHECK(same_bits(x, y, n));
            continue;
        }
        s = llm_session_create(a, NULL, NULL);
        t = llm_session_create(b, NULL, NULL);
        for (i = 0; i < 12; i++) {
            CHECK(llm_session_eval(s, 0, tokens + i, 1, x, NULL) == LLM_OK &&
                  llm_session_eval(t, 0, tokens + i, 1, y, NULL) == LLM_OK);
            CHECK(same_bits(x, y, n / 12));
        }
        llm_session_free(s);
        llm_session_free(t);
    }
    free(x);
    free(y);
}

/* mapped and read models are equal; so is what they become in training */
TEST(files_mapped) {
    int deepseek, shards;
    for (deepseek = 0; deepseek < 2; deepseek++)
        for (shards = 0; shards < 2; shards++) {
            const char *directory = files_directory("mapped");
            llm_model *model = files_larger(deepseek), *mapped, *copy = files_larger(deepseek);
            llm_train_desc d = train_desc(2, 8, 1);
            llm_trainer *a, *b;
            llm_error err;
            void *before;
            size_t i;
            if (!model || !copy) return;
            err.message[0] = 0;
            CHECK(llmi_model_save(model, directory, LLM_F32, shards ? 700 : 1u << 30, &err) ==
                  LLM_OK);
            mapped = files_load(directory, &err);
            CHECK_MSG(mapped != NULL, "%s", err.message);
            if (!mapped) return;
            CHECK(files_mapped_count(mapped) == (LLMI_POSIX ? model->table.n : 0));
            CHECK(!shards || !LLMI_POSIX || mapped->n_maps > 2);
            CHECK(LLMI_POSIX ? mapped->block == NULL && mapped->rest == NULL
                             : mapped->block != NULL);
            CHECK(!LLMI_POSIX ||
                  files_heap.bytes < sizeof *model + 8192 + model->table.n * 160);
            CHECK(files_same_tensors(mapped, model));
            files_same_logits(mapped, model);
            before = mapped->values[1].data;
            a = llm_trainer_create(mapped, &d, &err);
            b = llm_trainer_create(copy, &d, &err);
            CHECK_MSG(a && b, "%s", err.message);
            if (!a || !b) return;
            CHECK(files_mapped_count(mapped) == 0 && mapped->n_maps == 0);
            CHECK(!LLMI_POSIX || mapped->values[1].data != before);
            CHECK(llm_trainer_weights(a, &i) == mapped->block && i == a->floats);
            CHECK(same_bits(mapped->block, model->block, a->floats));   /* zeros between, too */
            files_none_mapped();
            for (i = 0; i < 3; i++) {
                int32_t tokens[16], targets[16];
                random_batch(tokens, targets, 16, llm_model_config(model)->vocab_size, 0.1, i);
                CHECK(llm_trainer_step(a, tokens, targets, NULL, NULL) == LLM_OK &&
                      llm_trainer_step(b, tokens, targets, NULL, NULL) == LLM_OK);
            }
            CHECK(same_bits(mapped->block, copy->block, a->floats));
            CHECK(!files_same_tensors(mapped, model));
            llm_trainer_free(a);
            llm_trainer_free(b);
            files_unload(mapped);
            mapped = files_load(directory, &err);                  /* the files are as before */
            CHECK(mapped && files_same_tensors(mapped, model));
            files_unload(mapped);
            llm_model_free(model);
            llm_model_free(copy);
        }
}

/* weights that cannot be mapped are read */
TEST(files_not_mapped) {
#if LLMI_POSIX
    const char *directory = files_directory("not_mapped");
    llm_model *model = files_larger(1), *got;
    llm_error err;
    if (!model) return;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    maps_fail = 1;
    got = files_load(directory, &err);
    maps_fail = 0;
    CHECK_MSG(got != NULL, "%s", err.message);
    if (!got) return;
    CHECK(files_mapped_count(got) == 0 && files_same_tensors(got, model));
    files_unload(got);
    llm_model_free(model);
#else
    SKIP("nothing is mapped here");
#endif
}

/* writing to a tensor stays in the process; a save over the mapped files harms nobody */
TEST(files_mapped_writes) {
    const char *directory = files_directory("mapped_writes");
    llm_model *model = files_small(1, 1), *a, *b, *c;
    llm_error err;
    size_t n = 0, m = 0;
    char *before, *after;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    before = files_read(directory, "model.safetensors", &n);
    a = llm_model_load(directory, NULL, &err);
    b = llm_model_load(directory, NULL, &err);
    CHECK(a && b);
    if (!a || !b) return;
    ((float *)llm_model_tensor(a, 0).data)[1] += 1.0f;
    ((float *)llm_model_tensor(model, 0).data)[1] += 1.0f;
    CHECK(files_same_tensors(a, model) && !files_same_tensors(a, b));
    after = files_read(directory, "model.safetensors", &m);
    CHECK(n > 0 && n == m && !memcmp(before, after, n));
    free(after);
    c = llm_model_load(directory, NULL, &err);
    CHECK(c && files_same_tensors(b, c));
    CHECK(llm_model_save(a, directory, LLM_F32, &err) == LLM_OK);   /* where it is mapped from */
    CHECK(files_same_tensors(a, model) && files_same_tensors(b, c) && !files_same_tensors(a, b));
    llm_model_free(c);
    c = llm_model_load(directory, NULL, &err);
    CHECK(c && files_same_tensors(a, c));
    llm_model_free(c);
    CHECK(llm_model_save(b, directory, LLM_F32, &err) == LLM_OK);
    after = files_read(directory, "model.safetensors", &m);
    CHECK(n == m && !memcmp(before, after, n));
    CHECK(llmi_model_save(a, directory, LLM_F32, 100, &err) == LLM_OK);    /* removes the file */
    CHECK(files_same_tensors(a, model) && !files_same_tensors(a, b));
    free(before);
    free(after);
    llm_model_free(a);
    llm_model_free(b);
    llm_model_free(model);
}

/* only what is F32, at a multiple of 4 bytes, is mapped; a trainer gathers the rest, too */
TEST(files_mapped_in_part) {
    static const uint32_t exact[] = {0x3f800000u, 0xbf000000u, 0x40000000u, 0x3e800000u};
    llm_model *model = files_larger(1), *got;
    llm_train_desc d = train_desc(1, 4, 1);
    int shift, way;
    size_t i, j;
    if (!model) return;
    for (i = 0; i < model->table.n; i += 3)                /* values that bf16 holds */
        for (j = 0; j < model->table.rows[i].count; j++)
            memcpy((float *)model->values[i].data + j, &exact[(i + j) % 4], 4);
    for (shift = 0; shift < 4; shift++)
        for (way = 0; way < 2; way++) {
            const char *directory = files_directory("mapped_part");
            const size_t third = (model->table.n + 2) / 3;
            llm_trainer *trainer;
            files_weights w;
            llm_error err;
            char metadata[80];
            size_t size;
            char *file;
            files_of_model(&w, model);
            for (i = 0; way && i < model->table.n; i += 3) {
                for (j = 0; j < w.t[i].size / 4; j++)
                    memmove(w.t[i].data + 2 * j, w.t[i].data + 4 * j + 2, 2);
                w.t[i].dtype = "BF16";
                w.t[i].size /= 2;
            }
            w.metadata = metadata;
            for (j = 0; j < 4; j++) {  /* until the data begins at 4 k + shift */
                snprintf(metadata, sizeof metadata, "\"__metadata__\":{\"x\":\"%.*s\"}", (int)j,
                         "abc");
                file = files_pack(&w, &size);
                if (files_data(file, size) % 4 == (size_t)shift) break;
                free(file);
            }
            CHECK(j < 4);
            if (j == 4) return;
            files_write(directory, "config.json",
                        files_config(files_deepseek, "'num_nextn_predict_layers': 1"),
                        strlen(files_config(files_deepseek, "'num_nextn_predict_layers': 1")));
            files_write(directory, "model.safetensors", file, size);
            got = files_load(directory, &err);
            CHECK_MSG(got && files_same_tensors(got, model), "%s", err.message);
            if (!got) return;
            if (!LLMI_POSIX) CHECK(files_mapped_count(got) == 0 && got->block);
            else if (!way)
                CHECK(files_mapped_count(got) == (shift ? 0 : model->table.n) && !got->rest &&
                      !got->block == !shift);
            else if (shift % 2) CHECK(files_mapped_count(got) == 0 && got->block);
            else {                     /* bf16 of odd sizes moves what comes after */
                const size_t n = files_mapped_count(got);
                CHECK(n > 0 && n <= model->table.n - third && got->rest && !got->block);
                for (i = 0; i < model->table.n; i++)
                    CHECK(!files_is_mapped(got, i) ||
                          ((uintptr_t)got->values[i].data % 4 == 0 && i % 3));
            }
            files_same_logits(got, model);
            trainer = llm_trainer_create(got, &d, &err);
            CHECK_MSG(trainer != NULL, "%s", err.message);
            CHECK(got->block && !got->rest && files_same_tensors(got, model));
            llm_trainer_free(trainer);
            files_unload(got);
            free(file);
            files_free(&w);
        }
    llm_model_free(model);
}

/* a trainer that is not made leaves a mapped model mapped */
static llm_trainer *files_trainer(llm_model *model, const llm_model *same, llm_error *err) {
    const llm_train_desc d = train_desc(1, 4, 1);
    llmi_values values[200];
    llm_trainer *trainer;
    memcpy(values, model->values, model->table.n * sizeof *values);
    trainer = llm_trainer_create(model, &d, err);
    CHECK(trainer || !memcmp(values, model->values, model->table.n * sizeof *values));
    CHECK(files_same_tensors(model, same));
    return trainer;
}

TEST(files_mapped_allocation_fails) {
    const char *directory = files_directory("mapped_memory");
    llm_model *model = files_larger(1), *got;
    llm_trainer *trainer = NULL;
    llm_error err;
    if (!model) return;
    CHECK(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK);
    got = files_load(directory, &err);
    CHECK(got && got->table.n <= 200);
    if (!got) return;
    EACH_ALLOCATION_FAILS_TO_MAKE(&files_heap, trainer, files_trainer(got, model, &err));
    llm_trainer_free(trainer);
    files_unload(got);
    llm_model_free(model);
}

/* A layer that the configuration does not count is no MTP module: the file does not fit. */
TEST(files_more_layers_than_said) {
    llm_config c = files_deepseek_config();
    llm_model *model;
    size_t size;
    char *file;
    const char *config = files_config(files_deepseek, "'num_nextn_predict_layers': 0");
    c.n_layers = 3;
    model = shaken_model(&c, 5, 1, NULL);
    if (!model) return;
    file = files_pack_model(model, &size);
    files_refused(config, strlen(config), file, size, 0, LLM_ERR_UNSUPPORTED, "model.layers.2.",
                  "num_hidden_layers");
    free(file);
    llm_model_free(model);
}

/* An index that somebody else wrote may name any file. A save removes the shards that it names, and
 * nothing that it has just written. */
TEST(files_index_names_others) {
    const char *directory = files_directory("index_names");
    llm_model *model = files_small(1, 1), *got;
    llm_error err;
    static const char index[] = "{\"weight_map\": {\"a\": \"config.json\", "
                                "\"b\": \"model-old.safetensors\", \"c\": "
                                "\"generation_config.json\", \"d\": \"tokenizer.json\"}}";
    size_t size;
    char *data;
    if (!model) return;
    files_write(directory, "model.safetensors.index.json", index, strlen(index));
    files_write(directory, "model-old.safetensors", "x", 1);
    files_write(directory, "tokenizer.json", "{}", 2);
    CHECK_MSG(llm_model_save(model, directory, LLM_F32, &err) == LLM_OK, "%s", err.message);
    got = files_load(directory, &err);
    CHECK_MSG(got != NULL, "%s", err.message);
    files_unload(got);
    data = files_read(directory, "generation_config.json", &size);
    CHECK(data != NULL);
    free(data);
    data = files_read(directory, "tokenizer.json", &size);
    CHECK(data != NULL && size == 2);
    free(data);
    CHECK(llmi_kind_of("build/files/index_names/model-old.safetensors") == LLMI_NO_FILE &&
          llmi_kind_of("build/files/index_names/model.safetensors.index.json") == LLMI_NO_FILE);
    llm_model_free(model);
}

/* empty tensors share a place with the one after them, in whatever order the header has them */
TEST(files_empty_tensors) {
    static const char *const headers[] = {
        "{'a':{'dtype':'F32','shape':[2],'data_offsets':[0,8]},"
        "'b':{'dtype':'F32','shape':[0],'data_offsets':[0,0]},"
        "'c':{'dtype':'F32','shape':[1],'data_offsets':[8,12]},"
        "'d':{'dtype':'F32','shape':[0,3],'data_offsets':[8,8]}}",
        "{'d':{'dtype':'F32','shape':[0,3],'data_offsets':[12,12]},"
        "'c':{'dtype':'F32','shape':[1],'data_offsets':[8,12]},"
        "'b':{'dtype':'F32','shape':[0],'data_offsets':[8,8]},"
        "'a':{'dtype':'F32','shape':[2],'data_offsets':[0,8]}}"};
    int i;
    for (i = 0; i < 2; i++) {
        unsigned char file[512] = {0};
        const size_t n = strlen(headers[i]);
        llmi_shard shard;
        llm_error err;
        size_t k;
        memset(&shard, 0, sizeof shard);
        for (k = 0; k < n; k++)
            file[8 + k] = (unsigned char)(headers[i][k] == '\'' ? '"' : headers[i][k]);
        llmi_put_little(file, n, 8);
        shard.source.name = "memory";
        shard.source.memory = file;
        shard.source.size = 8 + n + 12;
        CHECK_MSG(llmi_shard_parse(&shard, NULL, &err) == LLM_OK, "%s", err.message);
        CHECK(shard.n == 4);
        llmi_shard_free(&shard, NULL);
    }
}

/* a shard holds as many tensors as fit, and one at least */
TEST(files_shards_are_full) {
    static const size_t counts[] = {3, 5, 100, 1, 1, 30, 30, 30, 2};
    llmi_tensor rows[9];
    llmi_table table;
    uint64_t most;
    size_t i;
    memset(rows, 0, sizeof rows);
    for (i = 0; i < 9; i++) rows[i].count = counts[i];
    memset(&table, 0, sizeof table);
    table.rows = rows;
    table.n = 9;
    for (most = 1; most < 900; most += 7) {
        size_t first, end;
        for (first = 0; first < 9; first = end) {
            uint64_t bytes = 0;
            end = llmi_shard_end(&table, first, 4, most);
            CHECK(end > first && end <= 9);
            for (i = first; i < end; i++) bytes += 4 * counts[i];
            CHECK(bytes <= most || end == first + 1);
            CHECK(end == 9 || bytes + 4 * counts[end] > most);
        }
    }
}

static void run_files(void) {
    RUN(files_empty_tensors);
    RUN(files_shards_are_full);
    RUN(files_every_prefix);
    RUN(files_damaged_bytes);
    RUN(files_header_length);
    RUN(files_offsets);
    RUN(files_json);
    RUN(files_shapes_and_names);
    RUN(files_types);
    RUN(files_gpt2_names);
    RUN(files_mtp);
    RUN(files_families);
    RUN(files_families_stay);
    RUN(files_configuration_stays);
    RUN(files_deepseek_by_architecture);
    RUN(files_routers_are_finite);
    RUN(files_numbers);
    RUN(files_names_the_family);
    RUN(files_half_values);
    RUN(files_mixed_types);
    RUN(files_fp8);
    RUN(files_shards);
    RUN(files_single);
    RUN(files_paths);
    RUN(files_gpt2_config);
    RUN(files_zeros_in_config);
    RUN(files_deepseek_config);
    RUN(files_null_is_false);
    RUN(files_deepseek_styles);
    RUN(files_largest_floats);
#if LLMI_POSIX
    RUN(files_directory_is_no_file);
#endif
    RUN(files_large_claims);
    RUN(files_round_trips);
    RUN(files_save_bf16);
    RUN(files_special_tokens);
    RUN(files_special_tokens_rest);
    RUN(files_not_inherited);
    RUN(files_journal_removes);
    RUN(files_index_names_others);
    RUN(files_more_layers_than_said);
    RUN(files_long_paths);
    RUN(files_sharded_save);
    RUN(files_generations);
    RUN(files_save_fails);
    RUN(files_locale);
    RUN(files_every_allocation_fails);
    RUN(files_mapped);
    RUN(files_not_mapped);
    RUN(files_mapped_writes);
    RUN(files_mapped_in_part);
    RUN(files_mapped_allocation_fails);
}
