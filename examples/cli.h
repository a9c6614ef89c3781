/* cli.h -- what the programs here and in tools/ share and what is not about llm.h: options, files,
 * text on its way out, the line of progress, the options of a training. Include it after llm.h.
 * What goes wrong ends the program with a line on stderr. */
#ifndef CLI_H
#define CLI_H
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifndef _WIN32
  #include <sys/file.h>
  #include <sys/ioctl.h>
#endif

static const char *cli_program = "?";  /* the name in front of messages                           */
static void (*cli_exit)(int status) = exit;
static int cli_open_line;              /* a line of progress on the terminal has no end yet */

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static inline void cli_note(const char *format, ...) {             /* a line on stderr */
    va_list arguments;
    if (cli_open_line) printf("\n");
    cli_open_line = 0;
    fflush(stdout);
    fprintf(stderr, "%s: ", cli_program);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
}
/* ends the program unless ok; the rest as for printf */
#define NEED(ok, ...) do { if (!(ok)) { cli_note(__VA_ARGS__); cli_exit(1); exit(1); } } while (0)
#define TRY(ok) NEED(ok, "%s", error.message)          /* error: the program's llm_error */

/* ---- options --------------------------------------------------------------------------------- */
typedef enum cli_kind {
    CLI_TITLE, CLI_FLAG, CLI_TEXT, CLI_WORD, CLI_INTEGER, CLI_PAIR, CLI_REAL
} cli_kind;
typedef struct cli_option {
    const char *name;                  /* of a title: the title; NULL ends the table              */
    cli_kind kind;
    void *value;                       /* int *, of a pair int[2]; const char **; double * */
    const char *other;                 /* the default; a word: all of them, the default first     */
    double least, most;
    const char *about;
    int given;
} cli_option;
#define CLI_HEAD(title) {title, CLI_TITLE, NULL, NULL, 0, 0, NULL, 0}
#define CLI_SWITCH(name, value, about) {name, CLI_FLAG, value, NULL, 0, 0, about, 0}
#define CLI_STRING(name, value, other, about) {name, CLI_TEXT, value, other, 0, 0, about, 0}
#define CLI_CHOICE(name, value, words, about) {name, CLI_WORD, value, words, 0, 0, about, 0}
#define CLI_WHOLE(name, value, other, least, about) \
    {name, CLI_INTEGER, value, other, least, 999999999, about, 0}
#define CLI_TWO(name, value, about) {name, CLI_PAIR, value, NULL, 1, 999999999, about, 0}
#define CLI_NUMBER(name, value, other, least, most, about) \
    {name, CLI_REAL, value, other, least, most, about, 0}
#define CLI_END {NULL, CLI_TITLE, NULL, NULL, 0, 0, NULL, 0}

static inline cli_option *cli_find(cli_option *options, const char *name, size_t n) {
    for (; options->name; options++)
        if (options->value && strlen(options->name) == n && !memcmp(options->name, name, n))
            return options;
    return NULL;
}
static inline int cli_given(cli_option *options, const char *name) {
    return cli_find(options, name, strlen(name))->given;
}
/* refuses those of names (divided by a blank) that were given; why: "with --from" */
static inline void cli_no_effect(cli_option *options, const char *names, const char *why) {
    for (size_t n; *names; names += n + (names[n] == ' ')) {
        n = strcspn(names, " ");
        NEED(!cli_find(options, names, n)->given, "%.*s has no effect %s", (int)n, names, why);
    }
}
static inline double cli_number(const cli_option *o, const char *text) {
    char *end;
    const double x = strtod(text, &end);
    const int whole = o->kind != CLI_REAL;
    NEED(end != text && !*end && x >= o->least && x <= o->most && (!whole || x == floor(x)),
         "%s %s: not a %snumber from %.9g to %.9g", o->name, text, whole ? "whole " : "", o->least,
         o->most);
    return x;
}
static inline void cli_set(const cli_option *o, const char *text) {
    if (o->kind == CLI_FLAG) {
        *(int *)o->value = 1;
    } else if (o->kind == CLI_TEXT) {
        *(const char **)o->value = text;
    } else if (o->kind == CLI_REAL) {
        *(double *)o->value = cli_number(o, text);
    } else if (o->kind == CLI_WORD) {
        const char *word = o->other;
        int i = 0;
        for (; strncmp(text, word, strlen(text)) || strcspn(word, "|") != strlen(text); i++) {
            word += strcspn(word, "|") + 1;
            NEED(word[-1], "%s %s: not one of %s", o->name, text, o->other);
        }
        *(int *)o->value = i;
    } else {
        *(int *)o->value = (int)cli_number(o, text);
    }
}
/* an option and what it is about, from column 20 on, in lines of less than 80 */
static inline void cli_explain(const cli_option *o) {
    const char *word = o->about;
    int column = printf("  %-16s", o->name) < 0 ? 0 : 18;
    char about[1024];
    if (o->other && *o->other) {
        snprintf(about, sizeof about, "%s [%s]", o->about, o->other);
        word = about;
    }
    for (size_t n; *word; word += n, word += *word == ' ') {
        n = strcspn(word, " ");
        if (column + (int)n + 1 > 79) column = printf("\n%18s", "") - 1;
        column += printf(" %.*s", (int)n, word);
    }
    printf("\n");
}
/* Sets the values, first to the defaults that are written as numbers. -> how many arguments are no
 * options; they come first in args then. "--name value" or "--name=value"; behind "--" there are no
 * options. With --help it prints usage and the options, and returns -1. */
static inline int cli_read_options(cli_option *options, char **args, const char *usage) {
    int n = 0, literal = 0;
    for (cli_option *o = options; o->name; o++)
        if (o->kind == CLI_TEXT ||
            (o->other && *o->other && !o->other[strspn(o->other, "0123456789.e-")]))
            cli_set(o, o->other);
    for (char **arg = args; *arg; arg++) {
        char *const text = *arg;
        const size_t size = strcspn(text, "=");
        cli_option *o = NULL;
        if (!literal && !strcmp(text, "--")) {
            literal = 1;
            continue;
        }
        if (literal || text[0] != '-' || !text[1]) {
            args[n++] = text;
            continue;
        }
        if (!strcmp(text, "--help") || !strcmp(text, "-h")) {
            printf("%s", usage);
            for (o = options; o->name; o++)
                if (o->value) cli_explain(o);
                else printf("%s\n", o->name);
            return -1;
        }
        o = cli_find(options, text, size);
        NEED(o, "%s: there is no such option; --help lists them", text);
        NEED(!text[size] || o->kind != CLI_FLAG, "%s: takes no value", o->name);
        const char *value = text[size] ? text + size + 1 : o->kind == CLI_FLAG ? "" : *++arg;
        NEED(value && strncmp(value, "--", 2), "%s: without a value", o->name);
        cli_set(o, value);
        if (o->kind == CLI_PAIR) {
            NEED(*++arg, "%s: without its second value", o->name);
            ((int *)o->value)[1] = (int)cli_number(o, *arg);
        }
        o->given = 1;
    }
    args[n] = NULL;
    return n;
}
/* for a field of a desc, in which 0 means the default: 0 itself */
static inline float cli_or_off(double x) { return (float)x == 0 ? LLM_OFF : (float)x; }

/* ---- files ----------------------------------------------------------------------------------- */
typedef char cli_path[4096];
static inline const char *cli_join(cli_path path, const char *directory, const char *name) {
    const int n = snprintf(path, sizeof(cli_path), "%s/%s", directory, name);
    NEED(n > 0 && n < (int)sizeof(cli_path), "%.80s...: too long a path", directory);
    return path;
}
/* the same; good until the next call */
static inline const char *cli_in(const char *directory, const char *name) {
    static cli_path path;
    return cli_join(path, directory, name);
}
static inline int cli_ends_in(const char *path, const char *ending) {
    const size_t n = strlen(path), m = strlen(ending);
    return n > m && !strcmp(path + n - m, ending);
}
/* path; if it ends in ending, and so names a file, the directory that the file is in */
static inline const char *cli_directory_of(cli_path directory, const char *path,
                                           const char *ending) {
    NEED(strlen(path) < sizeof(cli_path), "%.80s...: too long a path", path);
    strcpy(directory, path);
    if (!cli_ends_in(path, ending)) return directory;
    char *slash = strrchr(directory, '/');
    if (!slash) return strcpy(directory, ".");
    slash[slash == directory] = 0;
    return directory;
}
/* are these two names of one file? */
static inline int cli_same_file(const char *a, const char *b) {
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
static inline void cli_fail_open(const char *path, llm_error *err) {
    snprintf(err->message, sizeof err->message, "%.180s: %s", path,
             errno == EISDIR ? "is a directory; give the files in it" : strerror(errno));
    err->code = LLM_ERR_IO;
}
/* a file or a pipe to read, "-" the standard input; *size is 0 where it is not known beforehand.
 * -> NULL and err */
static inline FILE *cli_open(const char *path, int64_t *size, llm_error *err) {
    const int standard = !strcmp(path, "-");
    struct stat status;
    FILE *file = NULL;
    *size = 0;
    if ((standard ? fstat(0, &status) : stat(path, &status)) == 0) {
        if (S_ISDIR(status.st_mode)) errno = EISDIR;
        else file = standard ? stdin : fopen(path, "rb");
        if (file && S_ISREG(status.st_mode)) *size = (int64_t)status.st_size;
    }
    if (!file) cli_fail_open(path, err);
    return file;
}
/* could cli_open open it? Without doing so, as who writes into a pipe would notice */
static inline llm_result cli_can_open(const char *path, int64_t *size, llm_error *err) {
    struct stat status;
    *size = 0;
    if (!strcmp(path, "-")) return LLM_OK;
    if (stat(path, &status) == 0 && access(path, R_OK) == 0) {
        if (S_ISREG(status.st_mode)) *size = (int64_t)status.st_size;
        if (!S_ISDIR(status.st_mode)) return LLM_OK;
        errno = EISDIR;
    }
    cli_fail_open(path, err);
    return LLM_ERR_IO;
}
/* appends all of it to text (NULL, or of malloc), whose *size grows; never NULL */
static inline char *cli_read(const char *path, char *text, size_t *size) {
    llm_error error;
    int64_t expected;
    FILE *file = cli_open(path, &expected, &error);
    TRY(file);
    size_t room = *size + (size_t)expected + 1, n = 1;
    for (; n; *size += n) {
        if (*size + 1 >= room || !text) {
            if (*size + 1 >= room) room = 2 * room + 65536;
            NEED(text = (char *)realloc(text, room), "%s: out of memory", path);
        }
        n = fread(text + *size, 1, room - *size, file);
    }
    NEED(!ferror(file), "%s: %s", path, strerror(errno));
    if (file != stdin) fclose(file);
    return text;
}
/* with the directories above it */
static inline void cli_make_directory(const char *path) {
    cli_path part;
    NEED(strlen(path) < sizeof part && *path, "\"%.80s\": not a path of a directory", path);
    for (size_t n = 1;; n++) {
        if (path[n] && path[n] != '/') continue;
        memcpy(part, path, n);
        part[n] = 0;
#ifdef _WIN32
        const int made = mkdir(part);
#else
        const int made = mkdir(part, 0777);
#endif
        struct stat status;
        const int reason = errno;
        NEED(!made || (stat(part, &status) == 0 && S_ISDIR(status.st_mode)), "%s: %s", part,
             strerror(reason == EEXIST ? ENOTDIR : reason));
        if (!path[n]) return;
    }
}
/* the file of that name, if there is one; the copy appears when it is whole */
static inline void cli_copy(const char *from, const char *to, const char *name) {
    cli_path source, path, half;
    size_t size = 0;
    if (access(cli_join(source, from, name), F_OK)) return;
    if (cli_same_file(source, cli_join(path, to, name))) return;
    char *text = cli_read(source, NULL, &size);
    NEED(snprintf(half, sizeof half, "%s.tmp", path) < (int)sizeof half, "%s: too long", path);
    FILE *file = fopen(half, "wb");
    NEED(file && fwrite(text, 1, size, file) == size && !fclose(file) && !rename(half, path),
         "%s: %s", half, strerror(errno));
    free(text);
}

/* ---- text ------------------------------------------------------------------------------------ */
/* a line of prompt, tab and answer, in both of which \n, \t and \\ stand for a new line, a tab and
 * a backslash */
typedef struct cli_pair_line {
    char *prompt, *answer;
    size_t n_prompt, n_answer;
} cli_pair_line;

static inline size_t cli_unescape(char *text, size_t n) {             /* in place */
    static const char from[] = "nt\\", to[] = "\n\t\\";
    size_t in, out = 0;
    for (in = 0; in < n; in++) {
        const char *found = text[in] == '\\' && in + 1 < n ? strchr(from, text[in + 1]) : NULL;
        text[out++] = found && *found ? to[found - from] : text[in];
        in += found && *found;
    }
    return out;
}
/* takes a line off *text (*n bytes), within which the pair then stands. -> 1; 0: an empty line; -1:
 * not such a line */
static inline int cli_take_pair(char **text, size_t *n, cli_pair_line *pair) {
    char *const line = *text, *const end = (char *)memchr(line, '\n', *n), *tab;
    const size_t whole = end ? (size_t)(end - line) + 1 : *n;
    size_t size = whole - (end != NULL);
    *text += whole;
    *n -= whole;
    if (size && line[size - 1] == '\r') size--;
    if (!size) return 0;
    tab = (char *)memchr(line, '\t', size);
    if (!tab || memchr(tab + 1, '\t', size - (size_t)(tab + 1 - line))) return -1;
    pair->prompt = line;
    pair->n_prompt = cli_unescape(line, (size_t)(tab - line));
    pair->answer = tab + 1;
    pair->n_answer = cli_unescape(tab + 1, size - (size_t)(tab + 1 - line));
    return 1;
}
/* it stands for something that is not text, as <|endoftext|> does: its text becomes it only if
 * special tokens are looked for */
static inline int cli_is_special(const llm_tokenizer *tokenizer, int32_t token) {
    int32_t plain[2] = {-1, -1}, special[2] = {-1, -1};
    size_t n = 0, count;
    char text[256];
    if (llm_tokenizer_decode(tokenizer, &token, 1, text, sizeof text, &n, NULL) ||
        n > sizeof text ||
        llm_tokenizer_encode(tokenizer, text, n, 0, plain, 2, &count, NULL) ||
        (count == 1 && plain[0] == token) ||
        llm_tokenizer_encode(tokenizer, text, n, 1, special, 2, &count, NULL))
        return 0;
    return count == 1 && special[0] == token;
}
/* Tokens become text on stdout, special ones nothing. A character of UTF-8 may be spread over
 * several of them: begin with n = 0. */
typedef struct cli_stream {
    const llm_tokenizer *tokenizer;
    llm_special_tokens ends;           /* what ends a text is not printed, special or not         */
    char text[1024];
    size_t n;                          /* bytes that wait for the rest of their character         */
} cli_stream;

static inline int cli_print_token(int32_t token, void *user) {        /* for on_token */
    cli_stream *s = (cli_stream *)user;
    const size_t room = sizeof s->text - s->n;
    size_t added = 0, whole;
    int silent = cli_is_special(s->tokenizer, token);
    for (int i = 0; i < s->ends.n_eos; i++) silent |= token == s->ends.eos[i];
    /* a model may have more tokens than its tokenizer: these add nothing */
    if (!silent)
        llm_tokenizer_decode(s->tokenizer, &token, 1, s->text + s->n, room, &added, NULL);
    s->n += added < room ? added : room;
    whole = llm_utf8_complete(s->text, s->n);
    fwrite(s->text, 1, whole, stdout);
    fflush(stdout);
    s->n -= whole;
    memmove(s->text, s->text + whole, s->n);
    return ferror(stdout);
}

/* ---- texts into tokens ----------------------------------------------------------------------- */
typedef struct cli_source {            /* a text; a pipe is read once, and kept                   */
    const char *path;
    char *text;
    size_t size;
    int kept;
} cli_source;
typedef struct cli_texts {
    cli_source *sources;
    int n;
    int tsv;                           /* a document is a line, of a prompt and an answer         */
    int special;                       /* special tokens that are written out become themselves   */
} cli_texts;

static inline cli_texts cli_texts_of(char **paths, int n, int tsv, int special) {
    cli_texts texts;
    texts.sources = (cli_source *)calloc((size_t)n + 1, sizeof *texts.sources);
    NEED(texts.sources, "out of memory");
    for (int i = 0; i < n; i++) texts.sources[i].path = paths[i];
    texts.n = n;
    texts.tsv = tsv;
    texts.special = special;
    return texts;
}
static inline void cli_read_source(cli_source *s) {
    int64_t size;
    llm_error error;
    if (s->kept) return;
    TRY(!cli_can_open(s->path, &size, &error));
    s->kept = size == 0;
    s->size = 0;
    s->text = cli_read(s->path, NULL, &s->size);
}
static inline void cli_release_source(cli_source *s) {
    if (!s->kept) free(s->text);
}
/* the text without <|endoftext|>, in place; -> its length. *lines: how often that begins or ends a
 * line, as where it divides documents */
static inline size_t cli_without_special(char *text, size_t n, int *lines) {
    static const char token[] = "<|endoftext|>";
    size_t to = 0;
    *lines = 0;
    for (size_t i = 0; i < n;) {
        if (n - i < 13 || memcmp(text + i, token, 13)) {
            text[to++] = text[i++];
            continue;
        }
        *lines += i + 13 == n || text[i + 13] == '\n' || !to || text[to - 1] == '\n';
        i += 13;
    }
    return to;
}
/* learns from the first 64 MB or so */
static inline llm_tokenizer *cli_learn_tokenizer(cli_texts *texts, int vocab) {
    char *text = NULL;
    size_t size = 0, n;
    int lines;
    llm_error error;
    for (int i = 0; i < texts->n && size < 1 << 26; i++) {
        cli_source *s = &texts->sources[i];
        cli_read_source(s);
        NEED(text = (char *)realloc(text, size + s->size + 1), "out of memory");
        memcpy(text + size, s->text, s->size);
        n = cli_without_special(text + size, s->size, &lines);
        if (!texts->special) memcpy(text + size, s->text, s->size);
        if (!texts->special && lines)
            cli_note("%s divides texts by <|endoftext|>, which is learned as ordinary text: with "
                     "--special it is the token", s->path);
        if (memchr(s->text, 0, s->size))
            cli_note("%s has bytes of zero in it: is it a text?", s->path);
        size += texts->special ? n : s->size;
        cli_release_source(s);
    }
    NEED(size, "%s is empty", texts->sources[0].path);
    if (texts->tsv) size = cli_unescape(text, size);
    llm_tokenizer *tokenizer = llm_tokenizer_train(text, size, vocab, NULL, &error);
    TRY(tokenizer);
    free(text);
    return tokenizer;
}
static inline void cli_add_text(llm_data_writer *writer, const llm_tokenizer *tokenizer,
                                const char *text, size_t size, int special, int learned) {
    int32_t *tokens = (int32_t *)malloc((size + 1) * sizeof *tokens);   /* a byte each or more */
    unsigned char *context = (unsigned char *)malloc(size + 1);
    llm_error error;
    size_t n;
    NEED(tokens && context, "out of memory");
    memset(context, !learned, size + 1);
    TRY(!llm_tokenizer_encode(tokenizer, text, size, special, tokens, size + 1, &n, &error));
    TRY(!llm_data_writer_add(writer, tokens, context, n, &error));
    free(tokens);
    free(context);
}
/* into a token file: before a document bos, unless that is eos, and behind it eos, where the
 * vocabulary has such tokens */
static inline void cli_write_tokens(const llm_tokenizer *tokenizer, llm_special_tokens special,
                                    cli_texts *texts, const char *path) {
    const int32_t eos = special.n_eos ? special.eos[0] : -1, bos = special.bos;
    const unsigned char unlearned = 1;
    llm_error error;
    llm_data_writer *writer = llm_data_writer_open(path, llm_tokenizer_vocab_size(tokenizer), NULL,
                                                   &error);
    size_t all = 0;
    TRY(writer);
    for (int i = 0; i < texts->n; i++) {
        cli_source *s = &texts->sources[i];
        cli_read_source(s);
        all += s->size;
        char *text = s->text;
        size_t left = s->size;
        cli_pair_line pair = {text, text, 0, left};
        for (int line = 1; left; line++) {
            const int found = texts->tsv ? cli_take_pair(&text, &left, &pair) : 1;
            NEED(found >= 0, "%s: line %d is not a prompt, one tab and an answer", s->path, line);
            if (!texts->tsv) left = 0;
            if (!found) continue;
            if (bos >= 0 && bos != eos)
                TRY(!llm_data_writer_add(writer, &bos, &unlearned, 1, &error));
            cli_add_text(writer, tokenizer, pair.prompt, pair.n_prompt, texts->special, 0);
            cli_add_text(writer, tokenizer, pair.answer, pair.n_answer, texts->special, 1);
            if (eos >= 0) TRY(!llm_data_writer_add(writer, &eos, NULL, 1, &error));
        }
        cli_release_source(s);
    }
    NEED(all, "%s is empty", texts->sources[0].path);
    TRY(!llm_data_writer_finish(writer, &error));
    llm_data_writer_free(writer);
}

/* ---- progress -------------------------------------------------------------------------------- */
/* One line, written over itself on a terminal; what comes first is what a narrow terminal shows. */
typedef struct cli_line {
    char text[512];
    int n, width, full;                /* full: an addition found no room, so none does           */
    int terminal;
    double shown;                      /* seconds, when it was shown last                         */
} cli_line;

static inline double cli_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static inline int cli_columns(void) {
    const char *columns = getenv("COLUMNS");
    const int n = columns ? atoi(columns) : 0;
#ifdef TIOCGWINSZ
    struct winsize size;
    if (!ioctl(1, TIOCGWINSZ, &size) && size.ws_col) return size.ws_col;
#endif
    return n > 0 ? n : 80;
}
/* can lines be written over? Not where somebody gathers the output of several processes */
static int cli_gathered;
static inline int cli_terminal(void) { return !cli_gathered && isatty(1); }
/* is it time to show it again? Ten times a second; in a file every ten seconds */
static inline int cli_due(cli_line *line) {
    line->terminal = cli_terminal();
    return cli_seconds() - line->shown >= (line->terminal ? 0.1 : 10);
}
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static inline void cli_add(cli_line *line, const char *format, ...) {
    char part[256];
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(part, sizeof part, format, arguments);
    va_end(arguments);
    line->full |= n < 0 || line->n + n >= line->width;
    if (line->full) return;
    memcpy(line->text + line->n, part, (size_t)n + 1);
    line->n += n;
}
/* begins it anew, with a bar of the share that is done and the seconds that are left */
static inline void cli_bar(cli_line *line, double share, double left) {
    static const char bar[] = "########################........................";
    const int columns = cli_columns(), most = (int)sizeof line->text - 1;
    const int length = columns < 60 ? 8 : columns < 100 ? 16 : 24;
    const int done = (int)(fmin(fmax(share, 0), 1) * length);
    line->terminal = cli_terminal();
    line->width = line->terminal && columns < most ? columns : most;
    line->n = line->full = 0;
    cli_add(line, "[%.*s]", length, bar + 24 - done);
    if (share >= 1) cli_add(line, " done");
    else if (left >= 3600) cli_add(line, " %.0f:%02d:%02d left", floor(left / 3600),
                              (int)fmod(left / 60, 60), (int)fmod(left, 60));
    else cli_add(line, " %d:%02d left", (int)(left / 60), (int)fmod(left, 60));
}
/* last: nothing will be written over it */
static inline void cli_show(cli_line *line, int last) {
    if (line->terminal) printf("\r%s\033[K", line->text);
    else printf("%s\n", line->text);
    if (line->terminal && last) printf("\n");
    cli_open_line = line->terminal && !last;
    fflush(stdout);
    line->shown = cli_seconds();
}
static inline void cli_end_line(void) {
    if (cli_open_line) printf("\n");
    cli_open_line = 0;
}

/* ---- the directory of a training ------------------------------------------------------------- */
static inline const char *cli_checkpoint(const char *out, int64_t step) {
    char name[40];
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)step);
    return cli_in(out, name);
}
/* the newest checkpoint below a step, 0 if there is none; all but the keep newest are removed */
static inline int64_t cli_checkpoints(const char *out, int64_t below, int keep) {
    for (;;) {
        int64_t oldest = INT64_MAX, newest = 0;
        int n = 0;
        DIR *directory = opendir(out);
        if (!directory && errno == ENOENT) return 0;
        NEED(directory, "%s: %s", out, strerror(errno));
        for (struct dirent *entry; (entry = readdir(directory));) {
            if (strncmp(entry->d_name, "checkpoint-", 11)) continue;
            const int64_t step = strtoll(entry->d_name + 11, NULL, 10);
            if (step < 1 || strcmp(cli_checkpoint(out, step) + strlen(out) + 1, entry->d_name))
                continue;                            /* not as we write it */
            n++;
            oldest = step < oldest ? step : oldest;
            newest = step > newest && step < below ? step : newest;
        }
        closedir(directory);
        if (n <= keep) return newest;
        NEED(!remove(cli_checkpoint(out, oldest)), "%s: %s", cli_checkpoint(out, oldest),
             strerror(errno));
    }
}
/* removes the checkpoints after the step from which a run begins or goes on, and those that were
 * being written when a run was killed */
static inline void cli_clean(const char *out, int64_t step) {
    int64_t newest;
    DIR *directory = opendir(out);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        const char *suffix = strstr(entry->d_name, ".tmp");
        if (suffix && !strncmp(entry->d_name, "checkpoint-", 11) &&
            suffix[4 + strspn(suffix + 4, "0123456789")] == 0)
            remove(cli_in(out, entry->d_name));
    }
    if (directory) closedir(directory);
    while ((newest = cli_checkpoints(out, INT64_MAX, INT_MAX)) > step)
        NEED(!remove(cli_checkpoint(out, newest)), "%s: %s", cli_checkpoint(out, newest),
             strerror(errno));
}
/* log.csv with the rows up to step that it has, at step 0 with its head only; nobody else may have
 * it open, as two runs do not share a directory */
static inline FILE *cli_open_log(const char *out, int64_t step, const char *head) {
    const char *path = cli_in(out, "log.csv");
    char line[512];
    long end = 0;
    FILE *log = fopen(path, "a+");
    NEED(log, "%s: %s", path, strerror(errno));
#ifndef _WIN32
    NEED(!flock(fileno(log), LOCK_EX | LOCK_NB), "%s: another training is writing it", path);
#endif
    rewind(log);
    while (step && fgets(line, sizeof line, log) && strchr(line, '\n') && atoll(line) <= step)
        end = ftell(log);
    NEED(!fseek(log, end, SEEK_SET) && !ftruncate(fileno(log), end), "%s: %s", path,
         strerror(errno));
    if (!end) fputs(head, log);
    return log;
}
/* the files that transformers has beside a tokenizer; from: a directory, or a .json file in it */
static inline void cli_copy_tokenizer(const char *from, const char *to) {
    static const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja"};
    cli_path directory;
    cli_directory_of(directory, from, ".json");
    for (int i = 0; i < 3; i++) cli_copy(directory, to, names[i]);
}

/* ---- models ---------------------------------------------------------------------------------- */
/* begin and end of a text, for a new model: as GPT-2 or as DeepSeek-V3 names them */
static inline llm_special_tokens cli_special_tokens(const llm_tokenizer *tokenizer) {
    static const char *const names[][2] = {
        {"<|endoftext|>", "<|endoftext|>"},
        {"<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
         "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"}};
    llm_special_tokens special;
    memset(&special, 0, sizeof special);
    special.bos = special.pad = -1;
    for (int i = 0; i < 2 && !special.n_eos; i++) {
        special.bos = llm_tokenizer_token(tokenizer, names[i][0], strlen(names[i][0]));
        special.eos[0] = llm_tokenizer_token(tokenizer, names[i][1], strlen(names[i][1]));
        special.n_eos = special.eos[0] >= 0;
    }
    return special;
}
/* bytes of text that each of n tokens stands for, none for a special one */
static inline int *cli_token_bytes(const llm_tokenizer *tokenizer, int n) {
    int *bytes = (int *)calloc((size_t)n, sizeof *bytes);
    NEED(bytes, "out of memory");
    for (int32_t i = 0; i < n && i < llm_tokenizer_vocab_size(tokenizer); i++) {
        size_t size = 0;
        if (!cli_is_special(tokenizer, i))
            llm_tokenizer_decode(tokenizer, &i, 1, NULL, 0, &size, NULL);
        bytes[i] = (int)size;
    }
    return bytes;
}
static inline void cli_print_memory(const llm_memory *m) {
    printf("parameters %10.1f MB\ngradients %11.1f\noptimizer %11.1f\nactivations %9.1f\n"
           "scratch %13.1f\ntotal %15.1f\n",
           1e-6 * (double)m->parameters, 1e-6 * (double)m->gradients, 1e-6 * (double)m->optimizer,
           1e-6 * (double)m->activations, 1e-6 * (double)m->scratch, 1e-6 * (double)m->total);
}
static inline int cli_list_presets(void) {
    llm_config c;
    printf("%-18s %12s %8s %6s %6s %11s %8s\n", "preset", "parameters", "layers", "heads", "width",
           "vocabulary", "context");
    for (int i = 0; llm_config_preset_name(i); i++) {
        if (llm_config_preset(&c, llm_config_preset_name(i), NULL)) return 1;
        printf("%-18s %10.1f M %8d %6d %6d %11d %8d\n", llm_config_preset_name(i),
               1e-6 * (double)llm_config_param_count(&c), c.n_layers, c.n_heads, c.d_model,
               c.vocab_size, c.max_seq_len);
    }
    puts("A new model gets the vocabulary of its tokenizer, and the context --context or --seq.");
    return 0;
}
static inline int cli_scaled(int size, int64_t by, int64_t of) { return (int)(size * by / of); }
/* Another number of layers and heads, width and inner width of a preset: 0 leaves it as it is. The
 * sizes of latent attention and of experts follow the width. */
static inline void cli_shape(llm_config *c, int layers, int heads, int width, int ffn) {
    const int64_t old_width = c->d_model, old_heads = c->n_heads;
    int64_t head, old_head;
    if (layers) c->n_layers = layers;
    if (heads) c->n_heads = heads;
    if (width) c->d_model = width;
    NEED(c->d_model % c->n_heads == 0, "a width of %d is not a multiple of %d heads", c->d_model,
         c->n_heads);
    if (c->first_k_dense > c->n_layers) c->first_k_dense = c->n_layers;
    c->d_ffn = ffn ? ffn : cli_scaled(c->d_ffn, c->d_model, old_width);
    c->moe_d_ffn = cli_scaled(c->moe_d_ffn, c->d_model, old_width);
    c->q_lora_rank = cli_scaled(c->q_lora_rank, c->d_model, old_width);
    c->kv_lora_rank = cli_scaled(c->kv_lora_rank, c->d_model, old_width);
    head = c->d_model * old_heads;                     /* by the width of a head */
    old_head = old_width * c->n_heads;
    c->qk_nope_head_dim = cli_scaled(c->qk_nope_head_dim, head, old_head);
    c->v_head_dim = cli_scaled(c->v_head_dim, head, old_head);
    if (c->qk_rope_head_dim) {
        c->qk_rope_head_dim = cli_scaled(c->qk_rope_head_dim, head, old_head) / 2 * 2;
        if (!c->qk_rope_head_dim) c->qk_rope_head_dim = 2;
    }
}

/* the options of a new model and of its training, which the programs that train have in common */
typedef struct cli_model {
    const char *preset;
    int arch, layers, heads, width, ffn, context;
    double dropout;
} cli_model;
typedef struct cli_training {
    int seq, batch, steps, schedule, warmup, precision, recompute, seed, threads;
    double lr, min_lr, beta2, weight_decay, clip;
} cli_training;
#define CLI_MODEL_OPTIONS(m) \
    CLI_CHOICE("--arch", &m.arch, "deepseek|gpt2", "a tiny model of that kind"), \
    CLI_STRING("--preset", &m.preset, "", "or one of those that train --list shows"), \
    CLI_WHOLE("--layers", &m.layers, "the preset's", 1, "blocks"), \
    CLI_WHOLE("--heads", &m.heads, "the preset's", 1, "of attention; they divide the width"), \
    CLI_WHOLE("--width", &m.width, "the preset's", 1, "of the stream between blocks; the other " \
              "sizes grow with it"), \
    CLI_WHOLE("--ffn", &m.ffn, "the preset's", 1, "inner width of the feed-forward layers"), \
    CLI_WHOLE("--context", &m.context, "--seq", 1, "the most tokens that the model can read; " \
              "positions beyond --seq are not trained"), \
    CLI_NUMBER("--dropout", &m.dropout, "0, or as the model has it", 0, 0.999, \
               "of embeddings, attention and what is added to the stream")
#define CLI_TRAINING_OPTIONS(t) \
    CLI_WHOLE("--seq", &t.seq, "128", 2, "tokens of a sequence"), \
    CLI_WHOLE("--batch", &t.batch, "8", 1, "sequences at a time"), \
    CLI_WHOLE("--steps", &t.steps, "600", 1, "updates"), \
    CLI_NUMBER("--lr", &t.lr, "2e-3", 0, 1e6, "the highest learning rate"), \
    CLI_NUMBER("--min-lr", &t.min_lr, "lr/10", 0, 1e9, "the lowest"), \
    CLI_CHOICE("--schedule", &t.schedule, "cosine|wsd|linear|constant", \
               "how it falls; with wsd in the last tenth"), \
    CLI_WHOLE("--warmup", &t.warmup, "50, at most steps/10", 0, "updates that it rises first"), \
    CLI_NUMBER("--beta2", &t.beta2, "0.95", 1e-6, 0.999999, "of AdamW"), \
    CLI_NUMBER("--weight-decay", &t.weight_decay, "0.1", 0, 1e9, "of AdamW, on matrices"), \
    CLI_NUMBER("--clip", &t.clip, "1", 0, 1e9, "highest norm of the gradient; 0 = any"), \
    CLI_CHOICE("--precision", &t.precision, "f32|bf16|fp8", "of products"), \
    CLI_SWITCH("--recompute", &t.recompute, "activations are computed again: less memory"), \
    CLI_WHOLE("--seed", &t.seed, "1", 0, "of weights, batches and dropout"), \
    CLI_WHOLE("--threads", &t.threads, "0", 0, "0 = all cores")

static inline void cli_check_training(cli_option *options, const cli_model *m,
                                      const cli_training *t) {
    if (*m->preset) cli_no_effect(options, "--arch", "with --preset");
    if (t->schedule == LLM_SCHEDULE_CONSTANT)
        cli_no_effect(options, "--min-lr", "with --schedule constant");
    NEED(!m->context || m->context >= t->seq, "--context %d is below --seq %d", m->context, t->seq);
    NEED(!cli_given(options, "--min-lr") || t->min_lr <= t->lr, "--min-lr %g is above --lr %g",
         t->min_lr, t->lr);
}
/* refuses a value that is not what the run had before, unless the option is given */
static inline void cli_same(cli_option *options, const char *name, double before, double now) {
    const cli_option *o = cli_find(options, name, strlen(name));
    const char *word = o->kind == CLI_WORD ? o->other : "";
    if (o->given || (before >= now && before <= now)) return;
    for (int i = 0; i < before && *word; i++) {
        word += strcspn(word, "|");
        word += *word == '|';
    }
    NEED(!*word, "%s was %.*s: give it again, or another", name, (int)strcspn(word, "|"), word);
    NEED(0, "%s was %.9g: give it again, or another", name, before);
}
static inline llm_train_desc cli_train_desc(cli_option *options, const cli_training *t) {
    const int few = t->steps < 500 && t->schedule != LLM_SCHEDULE_CONSTANT;
    const int ratio = cli_given(options, "--min-lr") && t->lr > 0;
    llm_train_desc d;
    memset(&d, 0, sizeof d);
    d.seq_len = t->seq;
    d.batch_size = t->batch;
    d.learning_rate = cli_or_off(t->lr);
    d.min_lr_ratio = ratio ? cli_or_off(t->min_lr / t->lr) : 0.1f;
    d.schedule = (llm_schedule)t->schedule;
    d.max_steps = t->schedule == LLM_SCHEDULE_CONSTANT ? 0 : t->steps;   /* that one has no end */
    d.warmup_steps = cli_given(options, "--warmup") ? t->warmup : few ? t->steps / 10 : 50;
    d.beta2 = (float)t->beta2;
    d.weight_decay = cli_or_off(t->weight_decay);
    d.grad_clip = cli_or_off(t->clip);
    d.precision = (llm_precision)t->precision;
    d.recompute = t->recompute;
    d.seed = (uint64_t)t->seed;
    d.n_threads = t->threads;
    return d;
}
static inline llm_config cli_new_config(const cli_model *m, int vocab, int seq) {
    static const char *const tiny[] = {"deepseek-tiny", "gpt2-tiny"};
    llm_error error;
    llm_config c;
    TRY(!llm_config_preset(&c, *m->preset ? m->preset : tiny[m->arch], &error));
    cli_shape(&c, m->layers, m->heads, m->width, m->ffn);
    c.vocab_size = vocab;
    c.max_seq_len = m->context ? m->context : seq;
    c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = (float)m->dropout;
    return c;
}
static inline void cli_print_model(const llm_config *c) {
    printf("%s of %d layers, width %d, context %d: %.2f million parameters",
           c->arch == LLM_ARCH_GPT2 ? "GPT-2" : "DeepSeek-V3", c->n_layers, c->d_model,
           c->max_seq_len, 1e-6 * (double)llm_config_param_count(c));
    if (c->n_routed_experts)
        printf(", %.2f of them active", 1e-6 * (double)llm_config_active_param_count(c));
    printf("\n");
}
/* the command that writes with a model; program: argv[0], beside which it is */
static inline void cli_print_next(const char *program, const char *directory, int has_tokenizer) {
    const char *slash = strrchr(program, '/');
    if (!has_tokenizer) printf("copy the tokenizer.json of the token files into it, then ");
    printf("try it:\n  %.*sgenerate %s \"The \"\n", slash ? (int)(slash - program) + 1 : 0, program,
           directory);
}
#endif
