/* tokenize.c -- text files into a token file, which llm_data_open reads.
 *
 *     build/tokenize --tokenizer DIRECTORY --out data.tok TEXT...      (--help lists the options)
 *
 * Files may be larger than memory: text is read in parts, and cut where it makes no difference to
 * the tokens. Each file is a document; with --tsv, each line is one, a prompt and an answer, of
 * which only the answer is learned. The output appears under its name when all of it is there. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include "../examples/cli.h"

typedef struct tokenize_job {
    const char *tokenizer_path, *out, *eot;    /* eot: the end-of-text token; "" = none */
    int tsv, special;
    int align;                         /* documents begin at multiples of it; 0 = they need not */
    size_t part;                       /* bytes read at a time */
    int progress;
    llm_error error;
    /* the rest is tokenize_run's own */
    llm_tokenizer *tokenizer;
    llm_data_writer *writer;
    int32_t eot_id;
    int begins;                        /* the next token is a document's first */
    int32_t *tokens;                   /* room for capacity of them, */
    unsigned char *context;            /* and for as many marks */
    size_t capacity;
    int64_t n_tokens, n_learned, n_documents, n_bytes, all_bytes;
    double start;
    cli_line line;
} tokenize_job;

/* ---- where text may be cut ------------------------------------------------------------------- */
/* an added token stands across the cut, or might once more text is there; or ends at it and takes
 * in the white space behind it */
static int touches_added_token(const llm_tokenizer *t, const char *text, size_t n, size_t cut) {
    size_t i, before;
    for (i = 0; i < t->n_added; i++) {
        const llmi_added *a = &t->added[i];
        for (before = 1; before < a->size + (size_t)a->is.rstrip && before <= cut; before++)
            if (!memcmp(text + cut - before, a->content, llmi_min(a->size, n - cut + before)))
                return 1;
    }
    return 0;
}

/* In the patterns that llama.cpp has names for, no pre-token goes on from what is not white space
 * to a blank, nor from a letter or digit to the end of a line: the text is cut there in any case,
 * and a pre-token looks no further than to the first character that is not white space. Of other
 * patterns nothing is known. */
static int may_cut(const llm_tokenizer *t, const char *text, size_t n, size_t at) {
    const llmi_alphabet *a = &t->patterns.alphabet;
    const char next = text[at];
    const int last = (unsigned char)text[at - 1];
    int symbol;
    if (next != ' ' && (t->add_prefix_space || (next != '\t' && next != '\n' && next != '\r')))
        return 0;                      /* the prefix: a part would get one that the text has not */
    if (next != ' ' && !((last | 32) >= 'a' && (last | 32) <= 'z') && !(last >= '0' && last <= '9'))
        return 0;
    if (llmi_symbol_before(a, text, 0, at, &symbol) == at - 1 && last >= 0x80) return 0;
    if (a->is[symbol] >> LLMI_SET_WHITE & 1) return 0;
    return !touches_added_token(t, text, n, at);
}

/* the last cut of n bytes that is behind from, or 0 */
static size_t last_cut(const llm_tokenizer *t, const char *text, size_t n, size_t from) {
    size_t at;
    if (llmi_gguf_pre_of(t) == LLMI_COUNT(llmi_gguf_pre)) return 0;
    for (at = n; at-- > from + 1;)
        if (may_cut(t, text, n, at)) return at;
    return 0;
}

/* ---- tokens out ------------------------------------------------------------------------------ */
static llm_result put(tokenize_job *job, size_t n, int learned) {
    if (!n) return LLM_OK;
    memset(job->context, !learned, n);
    if (job->begins && job->align) job->context[0] = 1;
    job->begins = 0;
    job->n_tokens += (int64_t)n;
    if (learned) job->n_learned += (int64_t)n - job->context[0];
    return llm_data_writer_add(job->writer, job->tokens, job->context, n, &job->error);
}

static llm_result put_one(tokenize_job *job, int32_t token, int learned) {
    job->tokens[0] = token;
    return put(job, 1, learned);
}

static llm_result put_text(tokenize_job *job, const char *text, size_t n, int learned) {
    size_t count;
    if (n > job->capacity / 2) {       /* a byte is one token at most, and so is a prefix */
        free(job->tokens);
        free(job->context);
        job->capacity = 2 * n;
        job->tokens = (int32_t *)malloc(job->capacity * sizeof *job->tokens);
        job->context = (unsigned char *)malloc(job->capacity);
        if (!job->tokens || !job->context)
            return llmi_fail(&job->error, LLM_ERR_MEMORY, "out of memory: tokens of %lu bytes",
                             (unsigned long)n);
    }
    LLMI_TRY(llm_tokenizer_encode(job->tokenizer, text, n, job->special, job->tokens, job->capacity,
                                  &count, &job->error));
    return put(job, count, learned);
}

static llm_result end_document(tokenize_job *job) {
    job->n_documents++;
    if (job->eot_id >= 0) LLMI_TRY(put_one(job, job->eot_id, 1));
    while (job->align && job->n_tokens % job->align) LLMI_TRY(put_one(job, job->eot_id, 0));
    job->begins = 1;
    return LLM_OK;
}

/* ---- text in --------------------------------------------------------------------------------- */
static llm_result put_lines(tokenize_job *job, char *text, size_t n, const char *path,
                            long *line) {
    cli_pair_line pair;
    while (n) {
        const int found = cli_take_pair(&text, &n, &pair);
        ++*line;
        if (found < 0)
            return llmi_fail(&job->error, LLM_ERR_FORMAT,
                             "%.120s: line %ld is not a prompt, one tab and an answer",
                             llmi_path_end(path, 120), *line);
        if (!found) continue;
        LLMI_TRY(put_text(job, pair.prompt, pair.n_prompt, 0));
        LLMI_TRY(put_text(job, pair.answer, pair.n_answer, 1));
        LLMI_TRY(end_document(job));
    }
    return LLM_OK;
}

static void show_progress(tokenize_job *job) {
    const double spent = cli_seconds() - job->start, done = (double)job->n_bytes,
                 all = (double)job->all_bytes;
    const int known = done > 0 && done < all;          /* a pipe's size is not */
    if (!cli_due(&job->line)) return;
    cli_bar(&job->line, known ? done / all : 1, known ? spent * (all - done) / done : 0);
    cli_add(&job->line, "  %.1f MB  %lld tokens  %.1f MB/s", 1e-6 * done,
            (long long)job->n_tokens, 1e-6 * done / (spent > 0 ? spent : 1));
    cli_show(&job->line, 0);
}

/* one file, through a buffer of the caller's, which grows to the longest text without a cut */
static llm_result put_file(tokenize_job *job, FILE *file, const char *path, llmi_text *buffer) {
    size_t n, take, searched = 0;
    long line = 0;
    int at_end;
    buffer->size = 0;
    do {
        if (!llmi_text_reserve(buffer, job->part))
            return llmi_fail(&job->error, LLM_ERR_MEMORY, "out of memory: %.120s",
                             llmi_path_end(path, 120));
        errno = 0;
        n = fread(buffer->data + buffer->size, 1, job->part, file);
        if (ferror(file)) return llmi_fail_io(&job->error, "read", path);
        at_end = n < job->part;
        buffer->size += n;
        job->n_bytes += (int64_t)n;
        take = buffer->size;
        if (!at_end && job->tsv)
            while (take > searched && buffer->data[take - 1] != '\n') take--;
        else if (!at_end) take = last_cut(job->tokenizer, buffer->data, take, searched);
        if (take <= searched && !at_end) take = 0;
        LLMI_TRY(job->tsv ? put_lines(job, buffer->data, take, path, &line)
                          : put_text(job, buffer->data, take, 1));
        buffer->size -= take;
        memmove(buffer->data, buffer->data + take, buffer->size);
        searched = take || !buffer->size ? 0 : buffer->size - 1;
        if (job->progress) show_progress(job);
    } while (!at_end);
    return job->tsv ? LLM_OK : end_document(job);
}

static llm_result put_files(tokenize_job *job, const char *const *paths, int n_paths,
                            llmi_text *buffer) {
    llm_result result = LLM_OK;
    FILE *file;
    int i;
    for (i = 0; i < n_paths; i++) {    /* what is missing should be known at once */
        const int64_t size = cli_can_open(paths[i], &job->error);
        if (size < 0) return job->error.code;
        if (cli_same_file(paths[i], job->out))
            return llmi_fail(&job->error, LLM_ERR_ARGUMENT, "%.120s: is the text, and --out, too",
                             llmi_path_end(paths[i], 120));
        job->all_bytes += size;
    }
    job->start = job->line.shown = cli_seconds();
    for (i = 0; i < n_paths && result == LLM_OK; i++) {
        file = cli_open(paths[i], &job->error);
        if (!file) return job->error.code;
        result = put_file(job, file, paths[i], buffer);
        if (file != stdin) fclose(file);
    }
    if (result != LLM_OK) return result;
    if (job->align && job->n_tokens)   /* a target for the last window's last token */
        LLMI_TRY(put_one(job, job->eot_id, 0));
    return llm_data_writer_finish(job->writer, &job->error);
}

/* the whole work; job->error tells what failed, and an older file is then as it was */
static llm_result tokenize_run(tokenize_job *job, const char *const *paths, int n_paths) {
    llm_result result = LLM_ERR_MEMORY;
    llmi_text buffer;
    memset(&buffer, 0, sizeof buffer);
    job->tokenizer = llm_tokenizer_load(job->tokenizer_path, NULL, &job->error);
    if (!job->tokenizer) return job->error.code;
    job->eot_id = llm_tokenizer_token(job->tokenizer, job->eot, strlen(job->eot));
    job->begins = 1;
    job->capacity = 2 * job->part;
    job->tokens = (int32_t *)malloc(job->capacity * sizeof *job->tokens);
    job->context = (unsigned char *)malloc(job->capacity);
    if (!job->tokens || !job->context)
        llmi_fail(&job->error, result, "out of memory: parts of %lu bytes",
                  (unsigned long)job->part);
    else if (job->eot_id < 0 && (*job->eot || job->align))
        result = llmi_fail(&job->error, LLM_ERR_ARGUMENT,
                           "%.120s has no token \"%.60s\": name its end of text with --eot",
                           llmi_path_end(job->tokenizer_path, 120), job->eot);
    else {
        job->writer = llm_data_writer_open(job->out, llm_tokenizer_vocab_size(job->tokenizer), NULL,
                                           &job->error);
        result = job->writer ? put_files(job, paths, n_paths, &buffer) : job->error.code;
    }
    llm_data_writer_free(job->writer);
    llm_tokenizer_free(job->tokenizer);
    llmi_text_free(&buffer);
    free(job->tokens);
    free(job->context);
    return result;
}

/* ---- the command ----------------------------------------------------------------------------- */
static llm_result check_files(tokenize_job *job, const char *const *paths, int n_paths) {
    llm_data_desc desc;
    int i;
    memset(&desc, 0, sizeof desc);
    desc.batch_size = desc.seq_len = 1;
    for (i = 0; i < n_paths; i++) {
        llm_data *data = llm_data_open(&paths[i], 1, &desc, &job->error);
        llm_result result = data ? llm_data_verify(data, &job->error) : job->error.code;
        if (result == LLM_OK)
            printf("%s: %lld tokens of a vocabulary of %d, undamaged\n", paths[i],
                   (long long)llm_data_token_count(data), llm_data_vocab_size(data));
        llm_data_close(data);
        if (result != LLM_OK) return result;
    }
    return LLM_OK;
}

static tokenize_job job;
static int check;
static cli_option options[] = {
    CLI_STRING("--tokenizer", &job.tokenizer_path, "",
               "tokenizer.json, the directory with it, or a .gguf file"),
    CLI_STRING("--out", &job.out, "", "the token file; an older one is replaced at the end"),
    CLI_STRING("--eot", &job.eot, "<|endoftext|>", "the end-of-text token; \"\" for none"),
    CLI_SWITCH("--tsv", &job.tsv, "each line is a document: prompt, tab, answer; \\n \\t \\\\ "
               "stand for a new line, a tab, a backslash. Only answer and end of text are learned"),
    CLI_WHOLE("--align", &job.align, "0", 0, "documents begin at multiples of it, filled up with "
              "end-of-text tokens that are not learned: with that seq_len, no window has two "
              "documents; 0 = they need not"),
    CLI_SWITCH("--special", &job.special, "special tokens that are written out in the text become "
               "themselves"),
    CLI_SWITCH("--check", &check, "are these token files undamaged?"),
    CLI_END
};
static const char usage[] =
    "usage: tokenize --tokenizer DIRECTORY --out FILE [OPTION]... TEXT...\n"
    "       tokenize --check FILE...\n"
    "Text files, \"-\" the standard input, become one token file. Each is a document, with an\n"
    "end-of-text token behind it.\n";

int main(int argc, char **argv) {
    char **args = argv + (argc > 0);
    const char *const *paths = (const char *const *)args;
    llm_result result;
    cli_program = "tokenize";
    const int n = cli_read_options(options, args, usage);
    if (n < 0) return 0;
    NEED(n, "which files? (--help says more)");
    if (check) cli_no_effect(options, "--tokenizer --out --eot --tsv --align --special",
                             "with --check");
    NEED(check || *job.tokenizer_path, "--tokenizer: which vocabulary? (--help says more)");
    NEED(check || *job.out, "--out: which file is to be written? (--help says more)");
    job.part = (size_t)1 << 20;
    job.progress = 1;
    result = check ? check_files(&job, paths, n) : tokenize_run(&job, paths, n);
    cli_end_line();
    NEED(result == LLM_OK, "%s", job.error.message);
    if (!check)
        printf("%s: %lld tokens, %lld of them learned, %lld documents, %lld bytes of text\n",
               job.out, (long long)job.n_tokens, (long long)job.n_learned,
               (long long)job.n_documents, (long long)job.n_bytes);
    return 0;
}
