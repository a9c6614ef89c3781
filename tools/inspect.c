/* inspect.c -- what is in a model: configuration, numbers of parameters, every tensor.
 *
 *     build/inspect MODEL               a directory, a .safetensors or a .gguf file
 *
 * The configuration is that of the model as llm.h loads it; where it does not, the reason goes to
 * stderr, and the tensors follow all the same, with their names, types and shapes in the files. NaN
 * and infinities are counted, and left out of the statistics. Values of F8_E4M3 are given without
 * their scales. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"

static int complain(void) {
    cli_note("%s", error.message);
    return 1;
}

typedef struct statistics {
    double min, max, sum, squares;
    uint64_t n, bad;                   /* bad: NaN and infinities, not among the n */
} statistics;

static uint64_t values_of(const llmi_entry *entry) {
    uint64_t n = 1;
    for (int i = 0; i < entry->n_dims; i++) n *= (uint64_t)entry->dims[i];
    return n;
}
/* only for the types of llm_dtype_decode */
static llm_result measure(const llmi_shard *shard, const llmi_entry *entry, statistics *s) {
    enum { PART = 1 << 14 };           /* values: whole blocks of every type */
    static unsigned char part[4 * PART];
    static float values[PART];
    const uint64_t all = values_of(entry);
    size_t i, n;
    memset(s, 0, sizeof *s);
    for (uint64_t at = 0; at < all; at += n) {
        n = all - at < PART ? (size_t)(all - at) : PART;
        const uint64_t begin = entry->begin + at / PART * llm_dtype_size(entry->type, PART);
        LLMI_TRY(llmi_source_read(&shard->source, begin, part, llm_dtype_size(entry->type, n),
                                  &error));
        LLMI_TRY(llm_dtype_decode(values, part, entry->type, n, &error));
        for (i = 0; i < n; i++) {
            const double value = values[i];
            if (!(value - value >= 0.0)) {
                s->bad++;
                continue;
            }
            if (!s->n || value < s->min) s->min = value;
            if (!s->n || value > s->max) s->max = value;
            s->sum += value;
            s->squares += value * value;
            s->n++;
        }
    }
    return LLM_OK;
}

/* ---- tensors --------------------------------------------------------------------------------- */
/* the tensors of one type; those of no llm_dtype are together */
typedef struct total { uint64_t tensors, values, bytes, bad; } total;

static void add_total(total *t, const total *more) {
    t->tensors += more->tensors;
    t->values += more->values;
    t->bytes += more->bytes;
    t->bad += more->bad;
}
static void print_total(const char *name, const total *t) {
    printf("%-8s %6llu tensors, %llu values, %llu bytes", name, (unsigned long long)t->tensors,
           (unsigned long long)t->values, (unsigned long long)t->bytes);
    if (t->values) printf(", %.2f bits a value", 8.0 * (double)t->bytes / (double)t->values);
    if (t->bad) printf(", %llu values NOT FINITE", (unsigned long long)t->bad);
    printf("\n");
}
static int print_tensors(const llmi_shards *all) {
    total by_type[LLM_I32 + 1], whole;
    size_t i, j;
    memset(by_type, 0, sizeof by_type);
    memset(&whole, 0, sizeof whole);
    for (i = 0; i < all->n; i++) {
        const llmi_shard *shard = &all->shards[i];
        printf("\n%s: %lu tensors\n", shard->source.name, (unsigned long)shard->n);
        printf("  %-52s %-8s %-14s %12s %10s %10s %10s %10s\n", "name", "type", "shape", "bytes",
               "min", "max", "mean", "rms");
        for (j = 0; j < shard->n; j++) {
            const llmi_entry *entry = &shard->entries[j];
            total one = {1, values_of(entry), entry->end - entry->begin, 0};
            char shape[256];
            statistics s;
            llmi_shape_text(shape, sizeof shape, entry->dims, entry->n_dims);
            printf("  %-52s %-8s %-14s %12llu", entry->name, entry->type_name,
                   entry->n_dims ? shape : "()", (unsigned long long)one.bytes);
            if (entry->type >= LLM_F32 && entry->type <= LLM_Q6_K) {
                if (measure(shard, entry, &s) != LLM_OK) return complain();
                if (s.n)
                    printf(" %10.3g %10.3g %10.3g %10.3g", s.min, s.max, s.sum / (double)s.n,
                           sqrt(s.squares / (double)s.n));
                if (s.bad) printf("  %llu NOT FINITE", (unsigned long long)s.bad);
                one.bad = s.bad;
            }
            printf("\n");
            add_total(&by_type[entry->type], &one);
            add_total(&whole, &one);
        }
    }
    printf("\n");
    for (i = 0; i <= LLM_I32; i++)
        if (by_type[i].tensors && by_type[i].tensors < whole.tensors)
            print_total(i ? llm_dtype_name((llm_dtype)i) : "others", &by_type[i]);
    print_total("all", &whole);
    return 0;
}

static void print_config(const llm_config *c) {
    const llmi_arch *arch = llmi_arch_of(c->arch);
    const uint64_t modules = llm_config_mtp_param_count(c);
    size_t i;
    printf("%s\n", arch->types[arch->type_of(c)].name);
    for (i = 0; i < arch->n_fields; i++) {
        const double value = llmi_field_get(c, &arch->fields[i]);
        if (value > 0.0)
            printf(arch->fields[i].type == LLMI_FLOAT ? "  %-26s %.6g\n" : "  %-26s %.0f\n",
                   arch->fields[i].name, value);
    }
    printf("%llu parameters", (unsigned long long)llm_config_param_count(c));
    if (c->n_routed_experts)
        printf(", %llu for each token", (unsigned long long)llm_config_active_param_count(c));
    if (modules) printf("; %llu more in MTP modules", (unsigned long long)modules);
    printf("\nkey-value cache: %lu bytes per token in F32, %.1f MiB for the whole context\n",
           (unsigned long)llm_config_cache_bytes(c, 1, LLM_F32),
           (double)llm_config_cache_bytes(c, 0, LLM_F32) / 1048576.0);
}

/* ---- files ----------------------------------------------------------------------------------- */
/* whether a .safetensors file has no configuration in its metadata, as most have none */
static int weights_only(const llmi_shards *all) {
    void *config = NULL;
    size_t size;
    const int none = llmi_config_of_metadata(all, &config, &size, &error) != LLM_OK;
    llmi_release(NULL, config);
    return none;
}
/* a GGUF file, whose tensors keep the names that they have there */
static llm_result open_gguf(llmi_shard *shard, const char *path) {
    llmi_gguf *g = llmi_gguf_open(path, NULL, &error);
    if (!g) return error.code;
    const size_t size = (g->n_tensors + 1) * sizeof *shard->entries;
    TRY(shard->entries = (llmi_entry *)llmi_alloc(NULL, size, "tensors", &error));
    memset(shard->entries, 0, size);
    shard->n = g->n_tensors;
    shard->source = g->source;
    shard->names = g->names;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const llmi_gguf_tensor *tensor = &g->tensors[i];
        llmi_entry *entry = &shard->entries[i];
        entry->name = tensor->name;
        entry->type = tensor->type;
        entry->type_name = llm_dtype_name(tensor->type);
        entry->n_dims = tensor->n_dims;
        for (int d = 0; d < tensor->n_dims; d++)
            entry->dims[d] = (int64_t)tensor->dims[tensor->n_dims - 1 - d];
        entry->begin = tensor->at;
        entry->end = tensor->at + tensor->size;
    }
    g->source.file = NULL;             /* it is the shard's now, and so are the names */
    g->names = NULL;
    llmi_gguf_free(g);
    return LLM_OK;
}
/* all parts of a GGUF model */
static llm_result open_parts(llmi_shards *all, const char *path) {
    size_t n = 0;
    cli_path part;
    while (cli_part(part, path, (int)n)) n++;
    LLMI_TRY(llmi_shards_make(all, n, &error));
    for (size_t i = 0; i < n; i++)
        LLMI_TRY(open_gguf(&all->shards[i], strcpy(all->paths[i], cli_part(part, path, (int)i))));
    return LLM_OK;
}

static cli_option options[] = {CLI_END};
static const char usage[] =
    "usage: inspect MODEL\n"
    "What is in a model's directory, or in one .safetensors or .gguf file: the configuration,\n"
    "numbers of parameters, the tensors with their types, shapes, bytes and statistics.\n";

int main(int argc, char **argv) {
    char **args = argv + (argc > 0);
    llm_model *model;
    llmi_shards all;
    llmi_journal journal;
    llm_result opened;
    int failed = 0;
    cli_program = "inspect";
    const int n = cli_read_options(options, args, usage);
    if (n < 0) return 0;
    NEED(n == 1, "one directory, .safetensors or .gguf file is wanted (--help says more)");
    const int single = cli_ends_in(args[0], ".safetensors");
    memset(&all, 0, sizeof all);       /* types are those of the files, not the model's */
    memset(&journal, 0, sizeof journal);
    if (single) opened = llmi_shards_single(&all, args[0], &error);
    else if (cli_ends_in(args[0], ".gguf")) opened = open_parts(&all, args[0]);
    else {
        opened = llmi_journal_open(&journal, args[0], LLMI_JOURNAL, NULL, &error);
        if (opened == LLM_OK) opened = llmi_directory_open(&all, args[0], &journal, &error);
    }
    if (opened == LLM_OK && single && weights_only(&all)) {
        printf("no configuration in the file; the directory around it may have one\n");
    } else {
        model = llm_model_load(args[0], NULL, &error);
        if (model) print_config(llm_model_config(model));
        else failed = complain();
        llm_model_free(model);
    }
    if (opened == LLM_OK) failed |= print_tensors(&all);
    llmi_shards_free(&all);
    llmi_json_file_free(&journal);
    return failed;
}
