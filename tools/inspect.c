/* inspect.c -- what is in a model directory: configuration, numbers of parameters, every tensor.
 *
 *     build/inspect DIRECTORY           or one .safetensors file
 *
 * The configuration is that of the model as llm.h loads it; where it does not, the reason goes to
 * stderr, and the tensors follow all the same. NaN and infinities are counted, and left out of the
 * statistics. Values of F8_E4M3 are given without their scales. */
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

static double value_of(int type, const unsigned char *bytes) {       /* little endian */
    uint32_t bits = 0;
    int exponent, fraction;
    double size;
    memcpy(&bits, bytes, (size_t)llmi_dtypes[type].bytes);
    if (type == LLMI_DTYPE_F32) return (double)llmi_float_of_bits(bits);
    if (type == LLMI_DTYPE_BF16) return (double)llmi_bf16_to_f32((uint16_t)bits);
    if (type == LLMI_DTYPE_F16) return (double)llmi_f16_to_f32((uint16_t)bits);
    exponent = (int)(bits >> 3 & 15);  /* F8_E4M3: no infinity, the largest pattern is NaN */
    fraction = (int)(bits & 7);
    if (exponent == 15 && fraction == 7) return (double)NAN;
    size = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
    return bits & 128 ? -size : size;
}

/* only for the types of value_of */
static llm_result measure(const llmi_shard *shard, const llmi_entry *entry, statistics *s) {
    static unsigned char part[1 << 16];
    const size_t width = (size_t)llmi_dtypes[entry->dtype].bytes;
    uint64_t at;
    size_t i, n;
    memset(s, 0, sizeof *s);
    for (at = entry->begin; at < entry->end; at += n) {
        n = entry->end - at < sizeof part ? (size_t)(entry->end - at) : sizeof part;
        LLMI_TRY(llmi_source_read(&shard->source, at, part, n, &error));
        for (i = 0; i < n; i += width) {
            const double value = value_of(entry->dtype, part + i);
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

static int print_tensors(const llmi_shards *all) {
    uint64_t values = 0, bytes = 0, bad = 0;
    size_t tensors = 0, i, j;
    for (i = 0; i < all->n; i++) {
        const llmi_shard *shard = &all->shards[i];
        printf("\n%s: %lu tensors\n", shard->source.name, (unsigned long)shard->n);
        printf("  %-52s %-8s %-14s %10s %10s %10s %10s\n", "name", "type", "shape", "min", "max",
               "mean", "rms");
        for (j = 0; j < shard->n; j++) {
            const llmi_entry *entry = &shard->entries[j];
            char shape[256];
            statistics s;
            llmi_shape_text(shape, sizeof shape, entry->dims, entry->n_dims);
            printf("  %-52s %-8s %-14s", entry->name, llmi_dtypes[entry->dtype].name,
                   entry->n_dims ? shape : "()");
            tensors++;
            bytes += entry->end - entry->begin;
            values += (entry->end - entry->begin) / (uint64_t)llmi_dtypes[entry->dtype].bytes;
            if (entry->dtype <= 3) {   /* F32, BF16, F16, F8_E4M3 */
                if (measure(shard, entry, &s) != LLM_OK) return complain();
                if (s.n)
                    printf(" %10.3g %10.3g %10.3g %10.3g", s.min, s.max, s.sum / (double)s.n,
                           sqrt(s.squares / (double)s.n));
                if (s.bad) printf("  %llu NOT FINITE", (unsigned long long)s.bad);
                bad += s.bad;
            }
            printf("\n");
        }
    }
    printf("\n%lu tensors, %llu values, %llu bytes", (unsigned long)tensors,
           (unsigned long long)values, (unsigned long long)bytes);
    if (bad) printf(", %llu values NOT FINITE", (unsigned long long)bad);
    printf("\n");
    return 0;
}

static void print_config(const llm_config *c) {
    const llmi_arch *arch = llmi_arch_of(c->arch);
    const uint64_t modules = llm_config_mtp_param_count(c);
    size_t i;
    printf("%s\n", arch->name);
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

/* whether a .safetensors file has no configuration in its metadata, as most have none */
static int weights_only(const llmi_shards *all) {
    void *config = NULL;
    size_t size;
    const int none = llmi_config_of_metadata(all, &config, &size, &error) != LLM_OK;
    llmi_release(NULL, config);
    return none;
}

static cli_option options[] = {CLI_END};
static const char usage[] =
    "usage: inspect DIRECTORY\n"
    "What is in a model directory, or in one .safetensors file: the configuration,\n"
    "numbers of parameters, the tensors with their types, shapes and statistics.\n";

int main(int argc, char **argv) {
    char **args = argv + (argc > 0);
    llm_model *model;
    llmi_shards all;
    llmi_journal journal;
    int failed = 0, opened;
    cli_program = "inspect";
    const int n = cli_read_options(options, args, usage);
    if (n < 0) return 0;
    NEED(n == 1, "one directory or one .safetensors file is wanted (--help says more)");
    const int single = cli_ends_in(args[0], ".safetensors");
    memset(&all, 0, sizeof all);       /* a model has f32 only; the types are those of the files */
    memset(&journal, 0, sizeof journal);
    if (single)
        opened = llmi_shards_single(&all, args[0], &error) == LLM_OK;
    else
        opened = llmi_journal_open(&journal, args[0], LLMI_JOURNAL, NULL, &error) == LLM_OK &&
                 llmi_directory_open(&all, args[0], &journal, &error) == LLM_OK;
    if (opened && single && weights_only(&all)) {
        printf("no configuration in the file; the directory around it may have one\n");
    } else {
        model = llm_model_load(args[0], NULL, &error);
        if (model) print_config(llm_model_config(model));
        else failed = complain();
        llm_model_free(model);
    }
    if (opened) failed |= print_tensors(&all);
    llmi_shards_free(&all);
    llmi_json_file_free(&journal);
    return failed;
}
