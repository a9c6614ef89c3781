/* tokenize.c -- text files into a token file, which llm_data_open reads.
 *
 *     build/tokenize --tokenizer DIRECTORY --out data.tok TEXT...      (--help lists the options)
 *
 * Files may be larger than memory: text is read in parts, and cut where it makes no difference to
 * the tokens. Each file is a document; with --tsv, each line is one, a prompt and an answer, of
 * which only the answer is learned. The output appears under its name when all of it is there. */
#define LLM_IMPLEMENTATION
#include "../llm.h"
#include <unistd.h>

typedef struct tokenize_job {
    const char *tokenizer_path, *out, *eot;    /* eot: the end-of-text token; "" = none */
    int tsv, special;
    int align;                         /* documents begin at multiples of it; 0 = they need not */
    size_t part;                       /* bytes read at a time */
    int progress;                      /* on stderr */
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

/* In the patterns of GPT-2 and of those after it, no pre-token goes on from what is not white space
 * to a blank, nor from a letter or number to the end of a line: the text is cut there in any case,
 * and a pre-token looks no further than to the first character that is not white space. */
static int may_cut(const llm_tokenizer *t, const char *text, size_t n, size_t at) {
    const char next = text[at];
    size_t begin = at - 1;
    int kind;
    if (next != ' ' && (t->add_prefix_space || (next != '\t' && next != '\n' && next != '\r')))
        return 0;                      /* the prefix: a part would get one that the text has not */
    while (begin > 0 && at - begin < 4 && ((unsigned char)text[begin] & 0xC0) == 0x80) begin--;
    if (llmi_class(t->classes, text + begin, at - begin, &kind) != at - begin) return 0;
    if (kind == LLMI_SPACE || (kind == LLMI_OTHER && (next == '\n' || next == '\r'))) return 0;
    return !touches_added_token(t, text, n, at);
}

/* the last cut of n bytes that is behind from, or 0 */
static size_t last_cut(const llm_tokenizer *t, const char *text, size_t n, size_t from) {
    size_t at;
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
/* \n, \t and \\ become what they stand for, in place; -> the new length */
static size_t unescape(char *text, size_t n) {
    static const char from[] = "nt\\", to[] = "\n\t\\";
    size_t in, out = 0;
    for (in = 0; in < n; in++) {
        const char *found = text[in] == '\\' && in + 1 < n ? strchr(from, text[in + 1]) : NULL;
        text[out++] = found && *found ? to[found - from] : text[in];
        in += found && *found;
    }
    return out;
}

static llm_result put_lines(tokenize_job *job, char *text, size_t n, const char *path,
                            long *line) {
    while (n) {
        char *end = (char *)memchr(text, '\n', n), *tab;
        const size_t whole = end ? (size_t)(end - text) + 1 : n;
        size_t size = whole - (end != NULL);
        ++*line;
        if (size && text[size - 1] == '\r') size--;
        if (size) {
            tab = (char *)memchr(text, '\t', size);
            if (!tab || memchr(tab + 1, '\t', size - (size_t)(tab + 1 - text)))
                return llmi_fail(&job->error, LLM_ERR_FORMAT,
                                 "%.120s: line %ld is not a prompt, one tab and an answer",
                                 llmi_path_end(path, 120), *line);
            LLMI_TRY(put_text(job, text, unescape(text, (size_t)(tab - text)), 0));
            size -= (size_t)(tab + 1 - text);
            LLMI_TRY(put_text(job, tab + 1, unescape(tab + 1, size), 1));
            LLMI_TRY(end_document(job));
        }
        text += whole;
        n -= whole;
    }
    return LLM_OK;
}

static void show_progress(const tokenize_job *job) {
    const double spent = llmi_seconds() - job->start, done = (double)job->n_bytes,
                 left = done > 0 ? spent * ((double)job->all_bytes - done) / done : 0;
    fprintf(stderr, "\r%3.0f %%  %lld tokens  %.1f MB/s  %.0f:%02d left ",
            job->all_bytes ? 100 * done / (double)job->all_bytes : 100.0, (long long)job->n_tokens,
            1e-6 * done / (spent > 0 ? spent : 1), floor(left / 60), (int)fmod(left, 60));
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
    int64_t size;
    int i;
    for (i = 0; i < n_paths; i++) {    /* what is missing should be known at once */
        LLMI_TRY(llmi_file_open(paths[i], &file, &size, &job->error));
        fclose(file);
        job->all_bytes += size;
    }
    job->start = llmi_seconds();
    for (i = 0; i < n_paths && result == LLM_OK; i++) {
        LLMI_TRY(llmi_file_open(paths[i], &file, &size, &job->error));
        result = put_file(job, file, paths[i], buffer);
        fclose(file);
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

static const char usage[] =
    "usage: tokenize --tokenizer DIRECTORY --out FILE [OPTION]... TEXT...\n"
    "       tokenize --check FILE...\n"
    "Text files become one token file. Each file is a document, with an end-of-text token\n"
    "behind it.\n"
    "  --tokenizer PATH  tokenizer.json, or the directory with it\n"
    "  --out FILE        the token file; an older one is replaced at the end\n"
    "  --eot TEXT        the end-of-text token [<|endoftext|>]; \"\" for none\n"
    "  --tsv             each line is a document: prompt, tab, answer; \\n \\t \\\\ stand for a\n"
    "                    new line, a tab, a backslash. Only answer and end of text are learned\n"
    "  --align T         documents begin at multiples of T, filled up with end-of-text tokens\n"
    "                    that are not learned: with seq_len T, no window has two of them\n"
    "  --special         special tokens that are written out in the text become themselves\n"
    "  --check           are these token files undamaged?\n";

int main(int argc, char **argv) {
    static tokenize_job job;
    const char *const *paths = (const char *const *)argv;
    int i, n = 0, check = 0;
    llm_result result;
    job.eot = "<|endoftext|>";
    job.part = (size_t)1 << 20;
    job.progress = isatty(2);
    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--help")) return printf("%s", usage) < 0;
        if (!strcmp(argv[i], "--tsv")) job.tsv = 1;
        else if (!strcmp(argv[i], "--special")) job.special = 1;
        else if (!strcmp(argv[i], "--check")) check = 1;
        else if (argv[i][0] != '-') argv[n++] = argv[i];
        else if (value && !strcmp(argv[i], "--tokenizer")) job.tokenizer_path = argv[++i];
        else if (value && !strcmp(argv[i], "--out")) job.out = argv[++i];
        else if (value && !strcmp(argv[i], "--eot")) job.eot = argv[++i];
        else if (value && !strcmp(argv[i], "--align") && (job.align = atoi(value)) > 0) i++;
        else {
            fprintf(stderr, "tokenize: %s: unknown, or without its value; see --help\n", argv[i]);
            return 2;
        }
    }
    if (!n || (!check && (!job.out || !job.tokenizer_path))) {
        fprintf(stderr, "%s", usage);
        return 2;
    }
    result = check ? check_files(&job, paths, n) : tokenize_run(&job, paths, n);
    if (job.progress && job.n_bytes) fprintf(stderr, "\n");
    if (result != LLM_OK) {
        fprintf(stderr, "tokenize: %s\n", job.error.message);
        return 1;
    }
    if (!check)
        printf("%s: %lld tokens, %lld of them learned, %lld documents, %lld bytes of text\n",
               job.out, (long long)job.n_tokens, (long long)job.n_learned,
               (long long)job.n_documents, (long long)job.n_bytes);
    return 0;
}
