/* build/faults [-v] [FILTER]: what llm.h does where the system does not do what it is asked. Run it
 * in the project's root; it writes to build/faults.files.
 *
 * Every operation on files is done again and again: once with its first call of the system failing,
 * once with its second, and so on, in several ways; and once for each call with the process ending
 * there. What must hold: an error that names the file, or success where the call does not matter;
 * nothing leaked; then the old files or the new ones, whole; after the next save no others.
 *
 * build/faults --kills N: N processes that save are killed at random times, and a whole generation
 * must be there after each. */
#if defined(__unix__) || defined(__APPLE__)
#ifndef _DEFAULT_SOURCE
  #define _DEFAULT_SOURCE 1
#endif
#include "faults.h"
#include "test.h"
#include "test_tools.h"

#define FAULTS_ROOT "build/faults.files"

/* ---- directories ----------------------------------------------------------------------------- */
typedef struct listing { char names[64][80]; int n; } listing;

static int list_compare(const void *a, const void *b) {
    return strcmp((const char *)a, (const char *)b);
}
static listing list(const char *directory) {
    listing l;
    struct dirent *entry;
    DIR *d = opendir(directory);
    memset(&l, 0, sizeof l);
    while (d && (entry = readdir(d)) != NULL)
        if (entry->d_name[0] != '.' && l.n < 64)
            snprintf(l.names[l.n++], sizeof l.names[0], "%.79s", entry->d_name);
    if (d) closedir(d);
    qsort(l.names, (size_t)l.n, sizeof l.names[0], list_compare);
    return l;
}
static int list_same(const listing *a, const listing *b) {
    int i;
    for (i = 0; i < a->n && i < b->n; i++)
        if (strcmp(a->names[i], b->names[i]) != 0) return 0;
    return a->n == b->n;
}
static const char *list_text(const listing *l) {
    static char text[1024];
    size_t n = 0;
    int i;
    for (i = 0, text[0] = 0; i < l->n && n < sizeof text - 100; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? " " : "", l->names[i]);
    return text;
}
static const char *path_in(const char *directory, const char *name) {
    static char paths[4][600];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}
static void directory_empty(const char *directory) {
    const listing l = list(directory);
    int i;
    for (i = 0; i < l.n; i++) (void)unlink(path_in(directory, l.names[i]));
}
/* FAULTS_ROOT/name, empty */
static const char *directory_new(const char *name) {
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", FAULTS_ROOT, name);
    (void)mkdir("build", 0777);
    (void)mkdir(FAULTS_ROOT, 0777);
    (void)mkdir(path, 0777);
    directory_empty(path);
    return path;
}
static void file_write(const char *path, const void *data, size_t n) {
    FILE *file = fopen(path, "wb");
    CHECK_MSG(file && fwrite(data, 1, n, file) == n, "%s cannot be written", path);
    if (file) fclose(file);
}

/* ---- what is saved: generation g, an integer, shows in everything ---------------------------- */
/* even and odd generations differ in all dimensions, and in the number of shards */
static llm_config model_config(int g) {
    return g % 2 ? small_config(19, 4, 6, 2, 2) : small_config(11, 4, 4, 1, 2);
}
/* sets the weights, or compares them: the first is g, the others are drawn by it */
static int model_pattern(const llm_model *model, int g, int compare) {
    uint64_t k = 0;
    size_t i, j;
    int same = 1;
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor tensor = llm_model_tensor(model, i);
        float *values = (float *)tensor.data;
        for (j = 0; j < tensor_size(&tensor); j++, k++) {
            const float value = k ? llm_random_uniform((uint64_t)g, k) : (float)g;
            if (compare) same &= memcmp(&values[j], &value, sizeof value) == 0;
            else values[j] = value;
        }
    }
    return same;
}
static llm_special_tokens model_special(int g) {
    llm_special_tokens special;
    memset(&special, 0, sizeof special);
    special.bos = special.pad = g;
    special.n_eos = 2;
    special.eos[0] = g + 1;
    special.eos[1] = g + 2;
    return special;
}
static llm_model *model_make(int g) {
    const llm_config config = model_config(g);
    const llm_model_desc desc = model_desc(0, 1, NULL);
    const llm_special_tokens special = model_special(g);
    llm_model *model = llm_model_create(&config, &desc, NULL);
    if (!model || llm_model_set_special_tokens(model, &special, NULL) != LLM_OK) return NULL;
    (void)model_pattern(model, g, 0);
    return model;
}
/* its generation; -1 if it is none, or a mixture */
static int model_generation(const llm_model *model, int has_special) {
    const llm_config *have = llm_model_config(model);
    const float first = ((const float *)llm_model_tensor(model, 0).data)[0];
    const int g = first >= 0.0f && first < 1e6f ? (int)first : -1;
    const llm_config want = model_config(g);
    const llm_special_tokens special = llm_model_special_tokens(model);
    if (has_special && (special.bos != g || special.n_eos != 2 || special.eos[1] != g + 2))
        return -1;
    if (g < 0 || have->vocab_size != want.vocab_size || have->d_model != want.d_model ||
        have->n_layers != want.n_layers || !model_pattern(model, g, 1))
        return -1;
    return g;
}

static llm_trainer *trainer_make(int g) {
    const llm_train_desc desc = train_desc(1, 4, 1);
    llm_model *model = model_make(0);
    llm_trainer *trainer = model ? llm_trainer_create(model, &desc, NULL) : NULL;
    if (!trainer) return NULL;
    (void)model_pattern(model, g, 0);
    (void)llm_trainer_set_user_data(trainer, &g, sizeof g, NULL);
    return trainer;
}
static void trainer_free(llm_trainer *trainer) {
    llm_model *model = trainer ? trainer->model : NULL;
    llm_trainer_free(trainer);
    llm_model_free(model);
}
static int trainer_generation(const llm_trainer *trainer) {
    size_t size = 0;
    const void *user = llm_trainer_user_data(trainer, &size);
    int g = -1;
    if (size == sizeof g) memcpy(&g, user, sizeof g);
    return g >= 0 && model_pattern(trainer->model, g, 1) ? g : -1;
}

static llm_tokenizer *tokenizer_make(int g) {
    return llm_tokenizer_train("aabaabab abab aab", 17, 258 + g, NULL, NULL);
}
/* vocab.json and merges.txt with g merges */
static void tokenizer_write_pair(const char *directory, int g) {
    char vocab[6000], merges[100];
    size_t n = 0;
    int i;
    for (i = 0; i < 256; i++) {
        const uint32_t code = llmi_byte_to_char((uint32_t)i);
        n += (size_t)snprintf(vocab + n, sizeof vocab - n, "%c\"\\u%04x\": %d", i ? ',' : '{',
                              (unsigned)code, i);
    }
    for (i = 0; i < g; i++)
        n += (size_t)snprintf(vocab + n, sizeof vocab - n, ",\"a%c\": %d", 'a' + i, 256 + i);
    n += (size_t)snprintf(vocab + n, sizeof vocab - n, "}");
    file_write(path_in(directory, "vocab.json"), vocab, n);
    for (i = 0, n = 0; i < g; i++)
        n += (size_t)snprintf(merges + n, sizeof merges - n, "a %c\n", 'a' + i);
    file_write(path_in(directory, "merges.txt"), merges, n);
}

/* ---- operations: on files in `here`, of generation g ----------------------------------------- */
typedef struct operation {
    const char *name;
    llm_result (*save)(const char *here, int g, llm_error *err);
    /* *g = what is there, -1 where it is a mixture */
    llm_result (*load)(const char *here, int *g, llm_error *err);
    int generations[2], shards[2];  /* of version 0, the old one, and 1; shards: more than one  */
} operation;

static llm_model *models[3];        /* of generations 0, 1 and 2: a save does not make them     */
static llm_trainer *trainers[2];
static llm_model *session_model;
static llm_session *sessions[2];

static llm_result save_model(const char *here, int g, llm_error *err) {
    return llm_model_save(models[g], here, LLM_F32, err);
}
static llm_result load_model(const char *here, int *g, llm_error *err) {
    const llm_model_desc desc = model_desc(0, 1, NULL);
    llm_model *model = llm_model_load(here, &desc, err);
    if (!model) return err->code;
    *g = model_generation(model, !llmi_ends_with(here, ".safetensors"));
    llm_model_free(model);
    return LLM_OK;
}
static llm_result save_trainer(const char *here, int g, llm_error *err) {
    return llm_trainer_save(trainers[g], path_in(here, "a.ckpt"), err);
}
static llm_result load_trainer(const char *here, int *g, llm_error *err) {
    llm_trainer *trainer = trainer_make(77);
    llm_result result;
    if (!trainer) return LLM_ERR_MEMORY;
    result = llm_trainer_load(trainer, path_in(here, "a.ckpt"), err);
    if (result == LLM_OK) *g = trainer_generation(trainer);
    else CHECK_MSG(result == LLM_ERR_IO || trainer_generation(trainer) == 77,
                   "a load that failed has changed the trainer: %s", err->message);
    trainer_free(trainer);
    return result;
}
/* a sequence of one model: 2 + g mod 2 tokens, each g + 1 */
static llm_session *session_make(int g) {
    const int32_t tokens[3] = {g + 1, g + 1, g + 1};
    llm_session *session = llm_session_create(session_model, NULL, NULL);
    if (session && llm_session_eval(session, 0, tokens, 2 + g % 2, NULL, NULL) == LLM_OK)
        return session;
    llm_session_free(session);
    return NULL;
}
/* which it is; -1: not all of it, by its tokens and by what its cache gives */
static int session_generation(llm_session *session) {
    const int n = llm_session_length(session, 0);
    const int g = n > 0 ? (int)llm_session_tokens(session, 0)[0] - 1 : -1;
    llm_session *same = g < 0 || g > 2 || n != 2 + g % 2 ? NULL : session_make(g);
    const int32_t token = 5;
    float a[11], b[11];
    int is = same && !memcmp(llm_session_tokens(session, 0), llm_session_tokens(same, 0),
                             (size_t)n * sizeof token);
    is = is && llm_session_eval(same, 0, &token, 1, a, NULL) == LLM_OK &&
         llm_session_eval(session, 0, &token, 1, b, NULL) == LLM_OK && same_bits(a, b, 11);
    llm_session_free(same);
    return is ? g : -1;
}
static llm_result save_session(const char *here, int g, llm_error *err) {
    return llm_session_save(sessions[g], 0, path_in(here, "a.session"), err);
}
static llm_result load_session(const char *here, int *g, llm_error *err) {
    llm_session *session = session_make(2);
    llm_result result;
    if (!session) return LLM_ERR_MEMORY;
    result = llm_session_load(session, 0, path_in(here, "a.session"), err);
    if (result == LLM_OK) *g = session_generation(session);
    else CHECK_MSG(session_generation(session) == 2,
                   "a load that failed has changed the sequence: %s", err->message);
    llm_session_free(session);
    return result;
}
static llm_result save_tokenizer(const char *here, int g, llm_error *err) {
    llm_tokenizer *tokenizer = tokenizer_make(g);
    const llm_result result = llm_tokenizer_save(tokenizer, here, err);
    llm_tokenizer_free(tokenizer);
    return result;
}
static llm_result load_tokenizer(const char *here, int *g, llm_error *err) {
    llm_tokenizer *tokenizer = llm_tokenizer_load(here, NULL, err);
    if (!tokenizer) return err->code;
    *g = llm_tokenizer_vocab_size(tokenizer) - 258;
    llm_tokenizer_free(tokenizer);
    return LLM_OK;
}
static llm_result load_pair(const char *here, int *g, llm_error *err) {
    llm_tokenizer *tokenizer = llm_tokenizer_load(here, NULL, err);
    int32_t token = -1;
    size_t count = 0;
    if (!tokenizer) return err->code;
    *g = llm_tokenizer_vocab_size(tokenizer) - 257;      /* <|endoftext|> is added */
    if (llm_tokenizer_encode(tokenizer, "aa", 2, 0, &token, 1, &count, NULL) != LLM_OK ||
        (*g > 0 && (count != 1 || token != 256)))
        *g = -1;
    llm_tokenizer_free(tokenizer);
    return LLM_OK;
}
/* 70,000 tokens, more than the writer's buffer holds, and g more */
static llm_result save_data(const char *here, int g, llm_error *err) {
    static int32_t tokens[70001];
    llm_data_writer *writer = llm_data_writer_open(path_in(here, "a.tok"), 100, NULL, err);
    llm_result result;
    int i;
    if (!writer) return err->code;
    for (i = 0; i < 70000 + g; i++) tokens[i] = (i * 7 + g) % 100;
    result = llm_data_writer_add(writer, tokens, NULL, (size_t)(70000 + g), err);
    if (result == LLM_OK) result = llm_data_writer_finish(writer, err);
    llm_data_writer_free(writer);
    return result;
}
static llm_result load_data(const char *here, int *g, llm_error *err) {
    const char *path = path_in(here, "a.tok");
    llm_data_desc desc;
    llm_data *data;
    memset(&desc, 0, sizeof desc);
    desc.batch_size = 1;
    desc.seq_len = 8;
    data = llm_data_open(&path, 1, &desc, err);
    if (!data) return err->code;
    if (llm_data_verify(data, NULL) == LLM_OK) *g = (int)llm_data_token_count(data) - 70000;
    llm_data_close(data);
    return LLM_OK;
}

/* one file, whose metadata hold the configuration: what load takes beside a directory */
static llm_result save_file(const char *here, int g, llm_error *err) {
    const llm_model *model = models[g];
    const llm_config *c = llm_model_config(model);
    llmi_text text;
    uint64_t length;
    size_t at = 0, i;
    int d;
    (void)err;
    memset(&text, 0, sizeof text);
    llmi_text_add(&text, "        ", 8);
    llmi_text_format(&text, "{\"__metadata__\":{\"config\":\"{\\\"model_type\\\":\\\"gpt2\\\","
                     "\\\"vocab_size\\\":%d,\\\"n_positions\\\":%d,\\\"n_embd\\\":%d,"
                     "\\\"n_layer\\\":%d,\\\"n_head\\\":%d}\"}",
                     c->vocab_size, c->max_seq_len, c->d_model, c->n_layers, c->n_heads);
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        llmi_text_format(&text, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", t.name);
        for (d = 0; d < t.n_dims; d++)
            llmi_text_format(&text, "%s%d", d ? "," : "", (int)t.dims[d]);
        llmi_text_format(&text, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)at,
                         (unsigned long)(at + 4 * tensor_size(&t)));
        at += 4 * tensor_size(&t);
    }
    llmi_text_add(&text, "}       ", 8 - text.size % 8);
    length = text.size - 8;
    memcpy(text.data, &length, 8);
    for (i = 0; i < llm_model_tensor_count(model); i++) {
        const llm_tensor t = llm_model_tensor(model, i);
        llmi_text_add(&text, (const char *)t.data, 4 * tensor_size(&t));
    }
    file_write(path_in(here, "a.safetensors"), text.data, text.size);
    llmi_text_free(&text);
    return LLM_OK;
}
static llm_result load_file(const char *here, int *g, llm_error *err) {
    return load_model(path_in(here, "a.safetensors"), g, err);
}
/* a GGUF file */
static llm_result save_gguf(const char *here, int g, llm_error *err) {
    return llm_gguf_save(models[g], NULL, path_in(here, "a.gguf"), LLM_F32, err);
}
static llm_result load_gguf(const char *here, int *g, llm_error *err) {
    llm_model_desc desc = model_desc(0, 1, NULL);
    llm_model *model = llm_model_load(path_in(here, "a.gguf"), &desc, err), *plain = NULL;
    const llm_config *c = llm_model_config(model);
    size_t i, j, k;
    if (!model) return err->code;
    plain = llm_model_create(c, &desc, err);
    for (i = 0; plain && i < llm_model_tensor_count(model); i++) {     /* matrices stand turned */
        const llm_tensor from = llm_model_tensor(model, i), to = llm_model_tensor(plain, i);
        const size_t rows = (size_t)to.dims[0], n = tensor_size(&to) / rows;
        const int turned = to.n_dims == 2 && strstr(to.name, ".c_") != NULL;
        for (j = 0; j < rows; j++)
            for (k = 0; k < n; k++)
                ((float *)to.data)[j * n + k] = ((float *)from.data)[turned ? k * rows + j
                                                                            : j * n + k];
    }
    if (plain) *g = model_generation(plain, 0);
    llm_model_free(model);
    llm_model_free(plain);
    return plain ? LLM_OK : err->code;
}
static llm_result save_pair(const char *here, int g, llm_error *err) {
    (void)err;
    tokenizer_write_pair(here, g);
    return LLM_OK;
}

static const operation operations[] = {      /* generations 0 and 2 have the same shapes */
    {"a model in one file", save_model, load_model, {0, 2}, {0, 0}},
    {"a model in shards", save_model, load_model, {0, 2}, {1, 1}},
    {"a model in more shards", save_model, load_model, {0, 1}, {1, 1}},
    {"a model in shards, then in one file", save_model, load_model, {0, 1}, {1, 0}},
    {"a model in one file, then in shards", save_model, load_model, {0, 1}, {0, 1}},
    {"a checkpoint", save_trainer, load_trainer, {0, 1}, {0, 0}},
    {"a tokenizer", save_tokenizer, load_tokenizer, {0, 1}, {0, 0}},
    {"a token file", save_data, load_data, {0, 1}, {0, 0}},
    {"a GGUF file", save_gguf, load_gguf, {0, 1}, {0, 0}},
    {"a sequence", save_session, load_session, {0, 1}, {0, 0}}};
enum { ONE_FILE, SHARDS, MORE_SHARDS, TO_ONE_FILE, TO_SHARDS, CHECKPOINT, TOKENIZER, TOKEN_FILE,
       GGUF_FILE, SEQUENCE, N_OPERATIONS };
static const operation read_only[] = {       /* of these, save is not the library's */
    {"vocab.json and merges.txt", save_pair, load_pair, {0, 1}, {0, 0}},
    {"a .safetensors file", save_file, load_file, {0, 1}, {0, 0}}};
enum { N_READ_ONLY = sizeof read_only / sizeof read_only[0] };

static llm_result save(const operation *o, const char *here, int version, llm_error *err) {
    const int g = o->generations[version];
    if (!faults.counting) faults_collect();
    faults_shard_bytes = !o->shards[version] ? UINT64_C(5000000000) : g % 2 ? 2000 : 700;
    return o->save(here, g, err);
}
/* *version: -1 = a mixture */
static llm_result load(const operation *o, const char *here, int *version, llm_error *err) {
    int g = -1;
    const llm_result result = o->load(here, &g, err);
    *version = g == o->generations[1] ? 1 : g == o->generations[0] ? 0 : -1;
    return result;
}
static llm_error why;               /* what the last load that failed has said */
/* which version is there; -1 a mixture, -2 an error */
static int loaded(const operation *o, const char *here) {
    int version;
    why.message[0] = 0;
    return load(o, here, &version, &why) == LLM_OK ? version : -2;
}

/* ---- the record ------------------------------------------------------------------------------ */
static long blocks_before;

static void arm(faults_how how, int code, long at, const char *directory) {
    faults_collect();
    blocks_before = faults.n_blocks;
    memset(faults.files, 0, sizeof faults.files);
    memset(faults.closed, 0, sizeof faults.closed);
    faults.n_closed = faults.n_open = faults.n_maps = faults.bad_frees = 0;
    faults.directory_dirty = faults.journal_dirty = faults.created_dirty = faults.removed_dirty = 0;
    faults.unsafe_renames = faults.unsafe_removes = faults.unlocked = faults.wide_modes = 0;
    faults.how = how;
    faults.code = code;
    faults.at = at;
    faults.n = 0;
    faults.failed = "none";
    faults.directory = directory;
    faults.counting = 1;
}
/* nothing is counted any more: what was leaked, and what was done in a wrong order? */
static void disarm(const char *what) {
    faults.counting = 0;
    faults.how = FAULT_NONE;
    CHECK_MSG(faults.bad_frees == 0, "%s: %d blocks released twice", what, faults.bad_frees);
    CHECK_MSG(faults.n_blocks == blocks_before, "%s: %ld blocks of memory leaked", what,
              faults.n_blocks - blocks_before);
    CHECK_MSG(faults.n_open == 0, "%s: %d files left open", what, faults.n_open);
    CHECK_MSG(faults.n_maps == 0, "%s: %d mappings left", what, faults.n_maps);
    if (strcmp(faults.failed, "fsync of a directory") != 0 && strcmp(faults.failed, "open") != 0)
        CHECK_MSG(faults.unsafe_renames == 0 && faults.unsafe_removes == 0,
                  "%s: %d renamed, %d removed before what has to be durable was", what,
                  faults.unsafe_renames, faults.unsafe_removes);
    if (strcmp(faults.failed, "flock") != 0)
        CHECK_MSG(faults.unlocked == 0, "%s: renamed without a lock", what);
    CHECK_MSG(faults.wide_modes == 0, "%s: written with more rights than the old file has", what);
}
static const char *describe(const operation *o, const char *what) {
    static const char *const how[] = {"is done", "fails", "and all that write later fail",
                                      "is short", "finds files shortened",
                                      "finds sizes too large", "is the end"};
    static char text[300];
    snprintf(text, sizeof text, "%s %s, call %ld (%s) %s (%s)", what, o->name, faults.at,
             faults.failed, how[faults.how], strerror(faults.code));
    return text;
}

static faults_call calls[FAULTS_CALLS];        /* of an operation without faults */
static long n_calls;

static void keep_calls(const operation *o) {
    memcpy(calls, faults.calls, sizeof calls);
    n_calls = faults.n;
    CHECK_MSG(n_calls > 5 && n_calls <= FAULTS_CALLS, "%s: %ld calls", o->name, n_calls);
}
/* whether a fault there differs from one elsewhere */
static int is_worth(faults_how how, long at) {
    const faults_call *call = &calls[at - 1];
    if (at > 1 && call->absent && call[-1].absent && !strcmp(call->name, call[-1].name)) return 0;
    return how == FAULT_FULL ? call->kind == FAULTS_WRITES
           : how == FAULT_KILL ? call->kind != FAULTS_LOOKS
           : how == FAULT_SHORT ? call->moves : 1;
}
/* the failing of such a call may go unnoticed, where what follows comes out right all the same */
static int may_be_ignored(const char *call) {
    static const char *const names[] = {"mmap", "munmap", "unlink", "close", "fclose", "open",
                                        "stat", "lstat", "fstat", "fchmod", "flock",
                                        "fsync of a directory"};
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(call, names[i])) return 1;
    return 0;
}
static void check_message(const char *what, const char *here, llm_result result,
                          const llm_error *err) {
    CHECK_MSG(result == err->code && strstr(err->message, here + strlen(FAULTS_ROOT)),
              "%s: the message names no file: %s", what, err->message);
}

/* saves a version in a process of its own, which ends before call `at`; -> did it get there? */
static int save_and_die(const operation *o, const char *here, int version, long at) {
    int status = 0;
    pid_t child;
    fflush(stdout);
    faults_collect();
    child = fork();
    if (child == 0) {
        arm(FAULT_KILL, 0, at, here);
        _exit(save(o, here, version, NULL) != LLM_OK);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == FAULTS_KILLED);
    return WEXITSTATUS(status) == FAULTS_KILLED;
}

/* ---- saving ---------------------------------------------------------------------------------- */
/* Version `old` is there: whole, or (halfway) of a save that ended just when it replaced version 0,
 * so that a next one has to finish it first. */
static void make_old(const operation *o, const char *here, int old, long halfway) {
    directory_empty(here);
    CHECK(save(o, here, 0, NULL) == LLM_OK);
    if (halfway) CHECK(save_and_die(o, here, old, halfway));
}
static void walk_save(const operation *o, faults_how how, int code, long halfway) {
    const int old = halfway != 0;
    const char *here = directory_new("save");
    listing old_files, new_files, files;
    llm_error err = {{0}, LLM_OK};
    char what[300];
    long at;
    int version, is_old;
    make_old(o, here, old, halfway);
    old_files = list(here);
    arm(FAULT_NONE, 0, 0, here);
    CHECK_MSG(save(o, here, !old, &err) == LLM_OK, "%s: %s", o->name, err.message);
    CHECK_MSG(faults.directory_dirty == 0, "%s: names are not durable", o->name);
    disarm(describe(o, "saving"));
    keep_calls(o);
    new_files = list(here);
    CHECK_MSG(loaded(o, here) == !old, "%s: %s", o->name, why.message);
    for (at = 1, is_old = 0; at <= n_calls; at++) {
        llm_result result;
        if (!is_worth(how, at)) continue;
        if (!is_old) make_old(o, here, old, halfway);
        err.message[0] = 0;
        arm(how, code, at, here);
        result = save(o, here, !old, &err);
        snprintf(what, sizeof what, "%s", describe(o, "saving"));
        CHECK_MSG(faults.n >= at, "%s: only %ld calls this time", what, faults.n);
        disarm(what);
        files = list(here);
        version = loaded(o, here);
        CHECK_MSG(version >= 0, "%s, result %d: neither the old nor the new (%d): %s", what,
                  (int)result, version, why.message);
        if (result == LLM_OK)
            CHECK_MSG(version == !old && (code == EINTR || may_be_ignored(faults.failed)),
                      "%s: success, and version %d", what, version);
        else check_message(what, here, result, &err);
        is_old = version == old && list_same(&files, &old_files);
        if (is_old) continue;
        CHECK_MSG(halfway || list_same(&files, &new_files) || !strcmp(faults.failed, "unlink") ||
                      !strcmp(faults.failed, "rename"),
                  "%s, version %d: left are %s", what, version, list_text(&files));
        CHECK_MSG(save(o, here, !old, &err) == LLM_OK, "%s, then saved: %s", what, err.message);
        files = list(here);
        CHECK_MSG(list_same(&files, &new_files), "%s, then saved: %s", what, list_text(&files));
    }
}

TEST(faults_in_saving) {
    int i;
    for (i = 0; i < N_OPERATIONS; i++) {
        walk_save(&operations[i], FAULT_ONCE, EIO, 0);
        walk_save(&operations[i], FAULT_FULL, ENOSPC, 0);
        walk_save(&operations[i], FAULT_SHORT, EIO, 0);
    }
    walk_save(&operations[MORE_SHARDS], FAULT_ONCE, EINTR, 0);
}

/* into a directory that the save makes */
TEST(faults_in_saving_anew) {
    const operation *o = &operations[MORE_SHARDS];
    char here[300], what[300];
    long at;
    snprintf(here, sizeof here, "%s/made", directory_new("anew"));
    for (at = 0, n_calls = 0; at <= n_calls; at++) {
        llm_error err = {{0}, LLM_OK};
        llm_result result;
        listing files;
        if (at && !is_worth(FAULT_ONCE, at)) continue;
        directory_empty(here);
        (void)rmdir(here);
        arm(at ? FAULT_ONCE : FAULT_NONE, EIO, at, here);
        result = save(o, here, 1, &err);
        snprintf(what, sizeof what, "%s", describe(o, "saving anew"));
        disarm(what);
        files = list(here);
        if (result == LLM_OK) CHECK_MSG(loaded(o, here) == 1, "%s: %s", what, why.message);
        else {
            check_message(what, here, result, &err);
            CHECK_MSG(files.n == 0 || loaded(o, here) == 1,
                      "%s: left are %s", what, list_text(&files));
        }
        if (at == 0) keep_calls(o);
    }
    directory_empty(here);
    (void)rmdir(here);
}

/* ---- loading --------------------------------------------------------------------------------- */
static void walk_load(const operation *o, faults_how how, int code, long halfway) {
    const char *here = directory_new("load");
    long at;
    int shrinks = how == FAULT_SHRINK;
    for (at = 0, n_calls = 0; at <= n_calls; at++) {
        llm_error err = {{0}, LLM_OK};
        llm_result result;
        char what[300];
        int g = -1;
        if (at && !is_worth(how, at)) continue;
        if (at == 0 || shrinks) {
            make_old(o, here, 1, halfway);
            if (!halfway) CHECK(save(o, here, 1, NULL) == LLM_OK);
        }
        arm(at ? how : FAULT_NONE, code, at, here);
        result = load(o, here, &g, &err);
        snprintf(what, sizeof what, "%s", describe(o, "loading"));
        CHECK_MSG(faults.n >= at, "%s: only %ld calls this time", what, faults.n);
        disarm(what);
        if (at == 0) {
            CHECK_MSG(result == LLM_OK, "%s: %s", o->name, err.message);
            keep_calls(o);
        }
        if (result == LLM_OK)
            CHECK_MSG(g == 1 && (!at || shrinks || code == EINTR || may_be_ignored(faults.failed)),
                      "%s: success, and generation %d", what, g);
        else {
            check_message(what, here, result, &err);
            CHECK_MSG(result == LLM_ERR_IO || strcmp(faults.failed, "fread") != 0 || shrinks,
                      "%s: error %d", what, (int)result);
        }
    }
    CHECK_MSG(shrinks || loaded(o, here) == 1, "%s: loading has changed it", o->name);
}
/* Once with files that are mapped; then no file can be, and they are read: a read that fails or is
 * short must not go unnoticed. */
static void walk_loads(const operation *o) {
    walk_load(o, FAULT_ONCE, EIO, 0);
    faults.no_mmap = 1;
    walk_load(o, FAULT_ONCE, EIO, 0);
    walk_load(o, FAULT_SHORT, EIO, 0);
    faults.no_mmap = 0;
}
TEST(faults_in_loading) {
    int i;
    for (i = 0; i < N_OPERATIONS; i++) walk_loads(&operations[i]);
    for (i = 0; i < N_READ_ONLY; i++) walk_loads(&read_only[i]);
    walk_load(&operations[SHARDS], FAULT_ONCE, EINTR, 0);
}

TEST(files_that_shrink) {
    int i;
    faults.no_mmap = 1;
    for (i = 0; i < N_OPERATIONS; i++) walk_load(&operations[i], FAULT_SHRINK, 0, 0);
    for (i = 0; i < N_READ_ONLY; i++) walk_load(&read_only[i], FAULT_SHRINK, 0, 0);
    faults.no_mmap = 0;
}

static void lying_sizes(const operation *o) {
    const char *here = directory_new("load");
    llm_error err = {{0}, LLM_OK};
    llm_result result;
    int g = -1;
    CHECK(save(o, here, 1, NULL) == LLM_OK);
    arm(FAULT_LIE, 0, 0, here);
    result = load(o, here, &g, &err);
    disarm(describe(o, "loading"));
    CHECK_MSG(result == LLM_ERR_IO || result == LLM_ERR_FORMAT, "%s: %d", o->name, (int)result);
    check_message(o->name, here, result, &err);
}
TEST(sizes_that_are_too_large) {
    int i;
    faults.no_mmap = 1;
    for (i = 0; i < N_OPERATIONS; i++)         /* GGUF says itself where what it needs ends */
        if (i != GGUF_FILE) lying_sizes(&operations[i]);
    for (i = 0; i < N_READ_ONLY; i++) lying_sizes(&read_only[i]);
    faults.no_mmap = 0;
}

TEST(faults_in_finishing_a_save) {
    static const int which[] = {ONE_FILE, MORE_SHARDS, TO_ONE_FILE, TO_SHARDS};
    size_t k;
    for (k = 0; k < sizeof which / sizeof which[0]; k++) {
        const operation *o = &operations[which[k]];
        const char *here = directory_new("save");
        long at = 0;
        int n = 0;
        CHECK(save(o, here, 0, NULL) == LLM_OK);
        arm(FAULT_NONE, 0, 0, here);
        CHECK(save(o, here, 1, NULL) == LLM_OK);
        disarm(o->name);
        keep_calls(o);
        while (n < 3 && at < n_calls) n += !strcmp(calls[at++].name, "rename");
        CHECK_MSG(n == 3, "%s: %d times renamed", o->name, n);
        walk_save(o, FAULT_ONCE, EIO, at);     /* the journal has its name, and one file has */
        walk_load(o, FAULT_ONCE, EIO, at);
    }
}

/* ---- a process that ends --------------------------------------------------------------------- */
TEST(ends_at_each_call) {
    int i, n = 0;
    for (i = 0; i < N_OPERATIONS; i++) {
        const operation *o = &operations[i];
        const char *here = directory_new("ends");
        listing files, whole[2];
        long at;
        int g = 0, next;
        for (next = 0; next < 2; next++) {
            arm(FAULT_NONE, 0, 0, here);
            CHECK(save(o, here, next, NULL) == LLM_OK);
            disarm(o->name);
            whole[next] = list(here);
        }
        keep_calls(o);
        for (at = 1, next = 1; at <= n_calls + 1; at++) {
            if (at <= n_calls && !is_worth(FAULT_KILL, at)) continue;
            if (next) {
                directory_empty(here);
                CHECK(save(o, here, 0, NULL) == LLM_OK);
            }
            CHECK(save_and_die(o, here, 1, at) == (at <= n_calls));
            g = loaded(o, here);
            CHECK_MSG(g == 1 || (g == 0 && at <= n_calls), "%s, ended before call %ld: %d: %s",
                      o->name, at, g, why.message);
            next = ++n % 4 == 0;    /* what is saved then: also the other form */
            CHECK(save(o, here, next, NULL) == LLM_OK);
            g = loaded(o, here);
            CHECK_MSG(g == next, "%s, ended before call %ld, then saved: %d: %s", o->name, at, g,
                      why.message);
            files = list(here);
            CHECK_MSG(list_same(&files, &whole[next]), "%s, ended before call %ld, then saved: %s",
                      o->name, at, list_text(&files));
        }
    }
}

/* What 300 processes have left that ended in the midst does not stop the next save, and goes with
 * it. */
TEST(stale_files) {
    static const int which[] = {SHARDS, CHECKPOINT, TOKEN_FILE};
    size_t k;
    for (k = 0; k < sizeof which / sizeof which[0]; k++) {
        const operation *o = &operations[which[k]];
        const char *here = directory_new("stale");
        llm_error err = {{0}, LLM_OK};
        listing files, whole;
        long at = 0;
        int i;
        arm(FAULT_NONE, 0, 0, here);
        CHECK(save(o, here, 0, NULL) == LLM_OK);
        disarm(o->name);
        keep_calls(o);
        whole = list(here);
        for (i = 0; i < 100;) {
            at = at % n_calls + 1;
            if (calls[at - 1].kind != FAULTS_WRITES) continue;
            CHECK(save_and_die(o, here, 0, at));
            i++;
        }
        CHECK_MSG(loaded(o, here) == 0, "%s: %s", o->name, why.message);
        CHECK_MSG(save(o, here, 0, &err) == LLM_OK, "%s: %s", o->name, err.message);
        files = list(here);
        CHECK_MSG(list_same(&files, &whole), "%s: %s", o->name, list_text(&files));
    }
}

/* and so does what several writers of one file have left that ended at the same time */
TEST(stale_files_of_several_writers) {
    const char *here = directory_new("stale");
    listing files;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        int i;
        for (i = 0; i < 5; i++)
            if (!llm_data_writer_open(path_in(here, "a.tok"), 100, NULL, NULL)) _exit(1);
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(list(here).n == 5);
    CHECK(save(&operations[TOKEN_FILE], here, 0, NULL) == LLM_OK);
    files = list(here);
    CHECK_MSG(files.n == 1, "left are %s", list_text(&files));
}

/* a file that another writer is still writing is not stale, in this process or another */
TEST(files_in_work_stay) {
    const char *here = directory_new("work");
    const char *path = path_in(here, "a.tok");
    const int32_t token = 1;
    llm_data_writer *first = llm_data_writer_open(path, 100, NULL, NULL);
    listing files;
    int g, i, go[2], status = 0;
    pid_t child;
    CHECK(first && pipe(go) == 0);
    if (!first) return;
    fflush(stdout);
    child = fork();
    if (child == 0) {               /* finishes its file after the parent has saved one */
        llm_data_writer *mine = llm_data_writer_open(path, 100, NULL, NULL);
        char byte;
        close(go[1]);
        if (!mine || read(go[0], &byte, 1) != 0) _exit(1);
        for (i = 0; i < 70000; i++)
            if (llm_data_writer_add(mine, &token, NULL, 1, NULL) != LLM_OK) _exit(2);
        _exit(llm_data_writer_finish(mine, NULL) == LLM_OK ? 0 : 3);
    }
    for (i = 0; i < 2000 && list(here).n < 2; i++) usleep(1000);
    CHECK(list(here).n == 2);
    CHECK(save_data(here, 1, NULL) == LLM_OK && loaded(&operations[TOKEN_FILE], here) == 1);
    close(go[0]);
    close(go[1]);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(loaded(&operations[TOKEN_FILE], here) == 0);
    for (i = 0; i < 70003; i++)
        if (llm_data_writer_add(first, &token, NULL, 1, NULL) != LLM_OK) break;
    CHECK(i == 70003 && llm_data_writer_finish(first, NULL) == LLM_OK);
    llm_data_writer_free(first);
    CHECK(load_data(here, &g, NULL) == LLM_OK && g == 3);
    files = list(here);
    CHECK_MSG(files.n == 1, "%s", list_text(&files));
}

/* ---- what replaced files keep ---------------------------------------------------------------- */
static mode_t mode_of(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 ? status.st_mode & 0777 : 0;
}

static int list_has(const listing *l, const char *name) {
    return bsearch(name, l->names, (size_t)l->n, sizeof l->names[0], list_compare) != NULL;
}
TEST(modes_are_kept) {
    static const mode_t modes[] = {0600, 0640, 0664, 0444};
    const mode_t mask = umask(022);
    size_t k;
    int i, j;
    for (i = 0; i < N_OPERATIONS; i++)
        for (k = 0; k < sizeof modes / sizeof modes[0]; k++) {
            const operation *o = &operations[i];
            const char *here = directory_new("modes");
            listing old_files, new_files;
            CHECK(save(o, here, 0, NULL) == LLM_OK);
            old_files = list(here);
            for (j = 0; j < old_files.n; j++) {
                const char *path = path_in(here, old_files.names[j]);
                CHECK_MSG(mode_of(path) == 0644, "%s: new %s has mode %o", o->name,
                          old_files.names[j], (unsigned)mode_of(path));
                CHECK(chmod(path, modes[k]) == 0);
            }
            arm(FAULT_NONE, 0, 0, here);
            CHECK(save(o, here, 1, NULL) == LLM_OK);
            disarm(o->name);
            new_files = list(here);
            for (j = 0; j < new_files.n; j++) {
                const char *name = new_files.names[j];
                const mode_t mode = mode_of(path_in(here, name));
                CHECK_MSG(mode == (list_has(&old_files, name) ? modes[k] : 0644),
                          "%s: files of mode %o are replaced, %s has %o", o->name,
                          (unsigned)modes[k], name, (unsigned)mode);
            }
        }
    umask(mask);
}

/* a link is replaced, and what it points to stays as it was */
TEST(links_are_replaced) {
    static const struct { int operation; const char *file; } linked[] = {
        {ONE_FILE, "model.safetensors"}, {MORE_SHARDS, "config.json"}, {CHECKPOINT, "a.ckpt"},
        {TOKENIZER, "tokenizer.json"}, {TOKEN_FILE, "a.tok"}};
    size_t k;
    for (k = 0; k < sizeof linked / sizeof linked[0]; k++) {
        const operation *o = &operations[linked[k].operation];
        const char *here = directory_new("links"), *there = directory_new("elsewhere");
        const char *path = path_in(here, linked[k].file), *target = path_in(there, "target");
        llm_error err = {{0}, LLM_OK};
        struct stat status;
        listing files;
        CHECK(save(o, here, 0, NULL) == LLM_OK);
        CHECK(rename(path, target) == 0 && symlink("../elsewhere/target", path) == 0);
        CHECK_MSG(loaded(o, here) == 0, "%s: %s is a link", o->name, linked[k].file);
        CHECK(save(o, here, 1, NULL) == LLM_OK);
        CHECK_MSG(loaded(o, here) == 1, "%s: %s was a link", o->name, linked[k].file);
        CHECK_MSG(lstat(path, &status) == 0 && S_ISREG(status.st_mode), "%s: the link %s stayed",
                  o->name, linked[k].file);
        files = list(there);
        CHECK_MSG(files.n == 1, "%s: beside the target: %s", o->name, list_text(&files));
        CHECK(unlink(path) == 0 && symlink(linked[k].file, path) == 0);    /* to itself */
        if (save(o, here, 1, &err) == LLM_OK)
            CHECK_MSG(loaded(o, here) == 1, "%s: %s was a link to itself", o->name, linked[k].file);
        else check_message("a link to itself", here, err.code, &err);
    }
}

/* ---- a pipe among the files ------------------------------------------------------------------ */
/* done in a process of its own, which a pipe that is waited for would keep: -> its result */
static int result_of(const operation *o, const char *here, int loads) {
    llm_error err = {{0}, LLM_OK};
    int g = -1, status = 0;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        const llm_result result = loads ? load(o, here, &g, &err) : save(o, here, 1, &err);
        _exit(result == LLM_OK || strstr(err.message, here + strlen(FAULTS_ROOT)) ? (int)result
                                                                                  : 50);
    }
    while (waitpid(child, &status, WNOHANG) == 0) {
        usleep(500);
        if (++g == 20000) kill(child, SIGKILL);        /* ten seconds */
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
static void pipe_at(const operation *o, const char *here, const char *name, int loads) {
    const char *path = path_in(here, name);
    if (test_state.failures > 2) return;       /* each that waits takes ten seconds */
    (void)unlink(path);
    CHECK(mkfifo(path, 0666) == 0);
    if (loads) {
        const int result = result_of(o, here, 1);
        CHECK_MSG(result == LLM_ERR_IO, "%s: %s is a pipe, loading gives %d", o->name, name,
                  result);
    } else {
        const int result = result_of(o, here, 0);
        CHECK_MSG(result == LLM_OK || result == LLM_ERR_IO,
                  "%s: %s is a pipe, saving gives %d", o->name, name, result);
    }
    (void)unlink(path);
}
static void pipes(const operation *o, int saves) {
    const char *here = directory_new("pipes");
    listing files;
    int i;
    CHECK(save(o, here, 1, NULL) == LLM_OK);
    files = list(here);
    for (i = 0; i < files.n; i++) {
        char temporary[100];
        snprintf(temporary, sizeof temporary, "%s.tmp", files.names[i]);
        CHECK(save(o, here, 1, NULL) == LLM_OK);
        pipe_at(o, here, files.names[i], 1);
        if (!saves) continue;
        pipe_at(o, here, files.names[i], 0);
        CHECK(save(o, here, 1, NULL) == LLM_OK);
        pipe_at(o, here, temporary, 0);
    }
    if (o->load != load_model || !saves) return;
    pipe_at(o, here, "model.save.json", 1);
    pipe_at(o, here, "model.save.json", 0);
    pipe_at(o, here, "model.save.json.tmp", 0);
}
TEST(pipes_are_refused) {
    int i;
    for (i = 0; i < N_OPERATIONS; i++) pipes(&operations[i], 1);
    for (i = 0; i < N_READ_ONLY; i++) pipes(&read_only[i], 0);
}

static void run_faults(void) {
    RUN(faults_in_saving);
    RUN(faults_in_saving_anew);
    RUN(faults_in_loading);
    RUN(faults_in_finishing_a_save);
    RUN(files_that_shrink);
    RUN(sizes_that_are_too_large);
    RUN(ends_at_each_call);
    RUN(stale_files);
    RUN(stale_files_of_several_writers);
    RUN(files_in_work_stay);
    RUN(modes_are_kept);
    RUN(links_are_replaced);
    RUN(pipes_are_refused);
}

/* ---- a process that is killed at any time ---------------------------------------------------- */
/* which version a process of its own loads; negative as above */
static int loaded_there(const operation *o, const char *here) {
    int status = 0;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        const int version = loaded(o, here);
        if (version < 0) printf("  %s: %d: %s\n", o->name, version, why.message);
        fflush(stdout);
        _exit(version + 2);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) - 2 : -2;
}
/* one process saves, in turns, the two versions, until it is killed, within `most` seconds */
static void save_until_killed(const operation *o, const char *here, double most, uint64_t *random) {
    struct timespec rest;
    int version = 0;
    pid_t child;
    faults_collect();
    child = fork();
    if (child == 0) {
        while (save(o, here, version, NULL) == LLM_OK) version = !version;
        _exit(1);
    }
    most *= (double)(plain_random(random) >> 11) / 9007199254740992.0;
    rest.tv_sec = (time_t)most;
    rest.tv_nsec = (long)(1e9 * (most - (double)rest.tv_sec));
    nanosleep(&rest, NULL);
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

static int run_kills(int n) {
    enum { N = CHECKPOINT + 1 };
    uint64_t random = (uint64_t)time(NULL);
    int lost = 0, left = 0, halfway = 0, i, k, version;
    char here[N][64];
    listing whole[N][2], files;
    double seconds[N];
    faults.real_fsync = 1;
    for (k = 0; k < N; k++) {
        const double start = llmi_seconds();
        snprintf(here[k], sizeof here[k], "kills%d", k);
        snprintf(here[k], sizeof here[k], "%s", directory_new(here[k]));
        for (version = 0; version < 2; version++) {
            if (save(&operations[k], here[k], version, NULL) != LLM_OK) return 1;
            whole[k][version] = list(here[k]);
        }
        seconds[k] = llmi_seconds() - start;
    }
    for (i = 0; i < n; i++) {
        const operation *o = &operations[k = i % N];
        save_until_killed(o, here[k], 1.5 * seconds[k], &random);
        files = list(here[k]);
        halfway += !list_same(&files, &whole[k][0]) && !list_same(&files, &whole[k][1]);
        if (loaded_there(o, here[k]) < 0) {
            printf("  %s: lost, there are %s\n", o->name, list_text(&files));
            directory_empty(here[k]);
            lost++;
        }
        if (plain_random(&random) % 4 && i + N < n) continue;
        version = (int)(plain_random(&random) % 2);
        if (save(o, here[k], version, &why) != LLM_OK) printf("  %s: %s\n", o->name, why.message);
        files = list(here[k]);
        if (!list_same(&files, &whole[k][version]) || loaded_there(o, here[k]) != version) {
            printf("  %s: after a save there are %s\n", o->name, list_text(&files));
            left++;
        }
    }
    printf("%d kills, %d of them halfway: %d lost, %d with files left\n", n, halfway, lost, left);
    return lost || left || halfway < n / 10;
}

int main(int argc, char **argv) {
    int i, n_kills = 0, failed;
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v")) test_state.verbose = 1;
        else if (!strcmp(argv[i], "--kills") && i + 1 < argc) n_kills = atoi(argv[++i]);
        else if (argv[i][0] != '-' && !test_state.filter) test_state.filter = argv[i];
        else {
            fprintf(stderr, "usage: %s [-v] [FILTER], or %s --kills N\n", argv[0], argv[0]);
            return 2;
        }
    }
    for (i = 0; i < 3; i++) models[i] = model_make(i);
    session_model = model_make(0);
    for (i = 0; i < 2; i++) {
        trainers[i] = trainer_make(i);
        sessions[i] = session_make(i);
    }
    if (n_kills > 0) failed = run_kills(n_kills);
    else {
        test_file("faults", run_faults);
        failed = test_summary();
    }
    for (i = 0; i < 3; i++) llm_model_free(models[i]);
    for (i = 0; i < 2; i++) {
        trainer_free(trainers[i]);
        llm_session_free(sessions[i]);
    }
    llm_model_free(session_model);
    faults_collect();
    return failed;
}
#else
#include <stdio.h>
int main(void) {
    printf("skipped: faults are simulated where POSIX is\n");
    return 0;
}
#endif
