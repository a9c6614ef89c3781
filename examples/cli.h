/* cli.h -- what the programs here and in tools/ share and what is not about llm.h: options, files,
 * texts in and out, the line of progress, the options and the directory of a training. Include it
 * after llm.h. What goes wrong ends the program with a line on stderr. */
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
#ifdef _WIN32
  #define mkdir(path, mode) mkdir(path)
#else
  #include <sys/file.h>
  #include <sys/ioctl.h>
#endif

static const char *cli_program = "?";  /* the name in front of messages                           */
static void (*cli_exit)(int status) = exit;
static int cli_open_line;              /* a line of progress on the terminal has no end yet       */
static llm_error error;                /* what TRY prints; calls of llm.h get its address         */

static inline void cli_end_line(void) {
    if (cli_open_line) printf("\n");
    cli_open_line = 0;
}
static inline void cli_clear_line(void) {
    if (cli_open_line) printf("\r\033[K");
    cli_open_line = 0;
}
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static inline void cli_note(const char *format, ...) {             /* a line on stderr */
    va_list arguments;
    cli_end_line();
    fflush(stdout);
    fprintf(stderr, "%s: ", cli_program);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
}
/* ends the program unless ok; the rest as for printf */
#define NEED(ok, ...) do { if (!(ok)) { cli_note(__VA_ARGS__); cli_exit(1); exit(1); } } while (0)
#define TRY(ok) NEED(ok, "%s", error.message)
/* n values of some size, all zero */
static inline void *cli_alloc(size_t n, size_t size) {
    void *memory = calloc(n ? n : 1, size);
    NEED(memory, "out of memory");
    return memory;
}
/* for one of several processes, whose output somebody gathers: its messages have its number, rank 0
 * alone prints, and fail ends them all */
static inline void cli_be_rank(const char *program, int rank, void (*fail)(int status)) {
    static char name[64];
    snprintf(name, sizeof name, "%s: rank %d", program, rank);
    cli_program = name;
    cli_exit = fail;
    NEED(!rank || freopen("/dev/null", "w", stdout), "/dev/null: %s", strerror(errno));
}
/* says so if what was printed has not come out, as where the disk is full */
static inline void cli_check_output(void) {
    NEED(!fflush(stdout) && !ferror(stdout), "standard output: %s", strerror(errno));
}

/* in place: \n, \t and \\ become a new line, a tab and a backslash. -> the length */
static inline size_t cli_unescape(char *text, size_t n) {
    static const char from[] = "nt\\", to[] = "\n\t\\";
    size_t out = 0;
    for (size_t in = 0; in < n; in++) {
        const char *found = text[in] == '\\' && in + 1 < n ? strchr(from, text[in + 1]) : NULL;
        text[out++] = found && *found ? to[found - from] : text[in];
        in += found && *found;
    }
    return out;
}

/* ---- options --------------------------------------------------------------------------------- */
typedef enum cli_kind {
    CLI_TITLE, CLI_FLAG, CLI_TEXT, CLI_TEXTS, CLI_WORD, CLI_INTEGER, CLI_PAIR, CLI_REAL
} cli_kind;
/* a text for each time that the option is given, unescaped */
typedef struct cli_list { const char *items[16]; int n; } cli_list;
typedef struct cli_option {
    const char *name;                  /* of a title: the title; NULL ends the table              */
    cli_kind kind;
    void *value;                       /* int *, of a pair int[2]; const char **, cli_list *;     */
                                       /* double *                                                */
    const char *other;                 /* the default; a word: all of them, the default first     */
    double least, most;
    const char *about;
    int given;
} cli_option;
#define CLI_HEAD(title) {title, CLI_TITLE, NULL, NULL, 0, 0, NULL, 0}
#define CLI_SWITCH(name, value, about) {name, CLI_FLAG, value, NULL, 0, 0, about, 0}
#define CLI_STRING(name, value, other, about) {name, CLI_TEXT, value, other, 0, 0, about, 0}
#define CLI_MANY(name, value, about) {name, CLI_TEXTS, value, NULL, 0, 0, about, 0}
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
/* takes a name off *names, where blanks divide them -> its option; NULL: there are no more */
static inline cli_option *cli_next(cli_option *options, const char **names) {
    const char *name = *names;
    const size_t n = strcspn(name, " ");
    *names += n + (name[n] == ' ');
    return n ? cli_find(options, name, n) : NULL;
}
/* refuses those of names that were given; why: "with --from" */
static inline void cli_no_effect(cli_option *options, const char *names, const char *why) {
    for (const cli_option *o; (o = cli_next(options, &names));)
        NEED(!o->given, "%s has no effect %s", o->name, why);
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
/* the i-th of some words and what follows it; NULL: there are no more */
static inline const char *cli_word(const char *words, int i) {
    for (; words && i > 0; i--) words = strchr(words, '|') ? strchr(words, '|') + 1 : NULL;
    return words;
}
static inline void cli_set(const cli_option *o, const char *text) {
    if (o->kind == CLI_FLAG) *(int *)o->value = 1;
    else if (o->kind == CLI_TEXT) *(const char **)o->value = text;
    else if (o->kind == CLI_TEXTS) {
        cli_list *list = (cli_list *)o->value;
        NEED(*text, "%s: an empty text", o->name);
        NEED(list->n < 16, "%s: 16 of them are the most", o->name);
        char *own = (char *)text;                    /* an argument of main's, never a default */
        own[cli_unescape(own, strlen(own))] = 0;
        list->items[list->n++] = own;
    } else if (o->kind == CLI_REAL) *(double *)o->value = cli_number(o, text);
    else if (o->kind != CLI_WORD) *(int *)o->value = (int)cli_number(o, text);
    else {
        const char *word = o->other;
        int i = 0;
        while (strncmp(text, word, strlen(text)) || strcspn(word, "|") != strlen(text)) {
            word = cli_word(o->other, ++i);
            NEED(word, "%s %s: not one of %s", o->name, text, o->other);
        }
        *(int *)o->value = i;
    }
}
/* Refuses values that are not what a run had before, unless their options are given. The options of
 * names have their values in *now, and had them at the same places of *before. */
static inline void cli_same(cli_option *options, const char *names, const void *now,
                            const void *before) {
    for (const cli_option *o; (o = cli_next(options, &names));) {
        const void *at = (const char *)before + ((const char *)o->value - (const char *)now);
        const int real = o->kind == CLI_REAL;
        const char *word = o->kind == CLI_WORD ? cli_word(o->other, *(const int *)at) : NULL;
        char was[32];
        if (word) snprintf(was, sizeof was, "%.*s", (int)strcspn(word, "|"), word);
        else snprintf(was, sizeof was, "%.9g", real ? *(const double *)at : *(const int *)at);
        NEED(o->given || !memcmp(at, o->value, real ? sizeof(double) : sizeof(int)),
             "%s was %s: give it again, or another", o->name, was);
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
        if (literal || text[0] != '-' || !text[1]) {
            args[n++] = text;
        } else if (!strcmp(text, "--")) {
            literal = 1;
        } else if (!strcmp(text, "--help") || !strcmp(text, "-h")) {
            printf("%s", usage);
            for (cli_option *o = options; o->name; o++)
                if (o->value) cli_explain(o);
                else printf("%s\n", o->name);
            return -1;
        } else {
            const size_t size = strcspn(text, "=");
            cli_option *o = cli_find(options, text, size);
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
/* The i-th file of a model, which has parts if its name is as x-00001-of-00003.gguf, else is one.
 * -> NULL: there are no more */
static inline const char *cli_part(cli_path path, const char *model, int i) {
    const size_t n = strlen(model);
    int parts = 0, end = 0;
    NEED(n + 21 < sizeof(cli_path), "%.80s...: too long a path", model);
    strcpy(path, model);
    if (n > 20) sscanf(model + n - 20, "-%*5d-of-%5d.gguf%n", &parts, &end);
    if (end < 20 || parts < 1) return i ? NULL : path;
    snprintf(path + n - 19, 40, "%05d-of-%05d.gguf", i + 1, parts);
    return i < parts ? path : NULL;
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
/* Can it be opened: a file or a pipe, "-" the standard input? It is not tried, as who writes into a
 * pipe would notice. -> its size, 0 where that is not known; -1 and err */
static inline int64_t cli_can_open(const char *path, llm_error *err) {
    const int standard = !strcmp(path, "-");
    struct stat status;
    if (standard ? !fstat(0, &status) : !stat(path, &status) && !access(path, R_OK)) {
        if (!S_ISDIR(status.st_mode))
            return S_ISREG(status.st_mode) && !standard ? (int64_t)status.st_size : 0;
        errno = EISDIR;
    }
    cli_fail_open(path, err);
    return -1;
}
/* -> NULL and err */
static inline FILE *cli_open(const char *path, llm_error *err) {
    if (cli_can_open(path, err) < 0) return NULL;
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (!file) cli_fail_open(path, err);
    return file;
}
/* all of a file; never NULL */
static inline char *cli_read(const char *path, size_t *size) {
    size_t room = 0, n = 1;
    char *text = NULL;
    FILE *file = cli_open(path, &error);
    TRY(file);
    for (*size = 0; n; *size += n) {
        if (*size == room) {
            room = 2 * room + 65536;
            NEED(text = (char *)realloc(text, room), "%s: out of memory", path);
        }
        n = fread(text + *size, 1, room - *size, file);
    }
    NEED(!ferror(file), "%s: %s", path, strerror(errno));
    if (file != stdin) fclose(file);
    return text;
}
/* a text, of file unless that is empty; given: the text itself, or "-" for the standard input */
static inline char *cli_given_text(const char *file, const char *given, size_t *size) {
    if (*file || !strcmp(given, "-")) return cli_read(*file ? file : given, size);
    *size = strlen(given);
    return (char *)memcpy(cli_alloc(*size, 1), given, *size);
}
/* with the directories above it */
static inline void cli_make_directory(const char *path) {
    cli_path part;
    NEED(strlen(path) < sizeof part && *path, "\"%.80s\": not a path of a directory", path);
    for (size_t n = 1;; n++) {
        if (path[n] && path[n] != '/') continue;
        memcpy(part, path, n);
        part[n] = 0;
        struct stat status;
        const int failed = mkdir(part, 0777), reason = errno;
        NEED(!failed || (stat(part, &status) == 0 && S_ISDIR(status.st_mode)), "%s: %s", part,
             strerror(reason == EEXIST ? ENOTDIR : reason));
        if (!path[n]) return;
    }
}
/* the file of that name, if there is one; the copy appears when it is whole */
static inline void cli_copy(const char *from, const char *to, const char *name) {
    cli_path source, path, half;
    size_t size;
    if (access(cli_join(source, from, name), F_OK)) return;
    if (cli_same_file(source, cli_join(path, to, name))) return;
    char *text = cli_read(source, &size);
    NEED(snprintf(half, sizeof half, "%s.tmp", path) < (int)sizeof half, "%s: too long", path);
    FILE *file = fopen(half, "wb");
    NEED(file && fwrite(text, 1, size, file) == size && !fclose(file) && !rename(half, path),
         "%s: %s", half, strerror(errno));
    free(text);
}

/* ---- text ------------------------------------------------------------------------------------ */
typedef struct cli_text {
    char *bytes;                       /* NULL: it has not been read                              */
    size_t size;
} cli_text;
/* a line of prompt, tab and answer, in both of which \n, \t and \\ stand for a new line, a tab and
 * a backslash */
typedef struct cli_pair_line {
    char *prompt, *answer;
    size_t n_prompt, n_answer;
} cli_pair_line;

/* Takes a line off *text (*n bytes), within which its columns, divided by tabs, then stand. -> how
 * many there are, of which columns gets the first `most`; 0: an empty line */
static inline int cli_take_columns(char **text, size_t *n, cli_text *columns, int most) {
    char *at = *text, *const end = (char *)memchr(at, '\n', *n);
    const size_t whole = end ? (size_t)(end - at) + 1 : *n;
    size_t left = whole - (end != NULL);
    int count = 0;
    *text += whole;
    *n -= whole;
    if (left && at[left - 1] == '\r') left--;
    for (int more = left > 0; more; count++) {
        const char *tab = (const char *)memchr(at, '\t', left);
        const size_t size = tab ? (size_t)(tab - at) : left;
        more = tab != NULL;
        if (count < most) columns[count] = (cli_text){at, cli_unescape(at, size)};
        at += size + (size_t)more;
        left -= size + (size_t)more;
    }
    return count;
}
/* -> 1; 0: an empty line; -1: not such a line */
static inline int cli_take_pair(char **text, size_t *n, cli_pair_line *pair) {
    cli_text columns[2] = {{NULL, 0}, {NULL, 0}};
    const int found = cli_take_columns(text, n, columns, 2);
    *pair = (cli_pair_line){columns[0].bytes, columns[1].bytes, columns[0].size, columns[1].size};
    return found == 2 ? 1 : found ? -1 : 0;
}
/* the tokens of a text, after one place that is free for what stands before it; *n: their number.
 * Free what begins with that place. */
static inline int32_t *cli_encode(const llm_tokenizer *tokenizer, const char *text, size_t size,
                                  int parse_special, size_t *n) {
    int32_t *tokens = (int32_t *)cli_alloc(size + 2, sizeof *tokens) + 1;
    TRY(!llm_tokenizer_encode(tokenizer, text, size, parse_special, tokens, size + 1, n, &error));
    return tokens;
}
/* What stands before a text whose first token is `first`: bos, unless that is eos or the text has
 * it; before an empty text, with -1, eos, too. -> -1: nothing */
static inline int32_t cli_begin(llm_special_tokens special, int32_t first) {
    const int32_t bos = special.bos, eos = special.n_eos ? special.eos[0] : -1;
    return first < 0 ? (bos < 0 ? eos : bos) : bos != eos && bos != first ? bos : -1;
}
/* tokens become text on stdout, special ones nothing */
typedef struct cli_stream {
    llm_detokenizer *text;
    llm_special_tokens ends;           /* what ends a text is not printed, special or not         */
    int ended;                         /* by one of these, or by a stop text                      */
    int keep;                          /* 1: nothing is printed before cli_end_text               */
    char *kept;
    size_t n_kept;
} cli_stream;

/* stop: texts, at which it ends, or NULL */
static inline cli_stream cli_stream_of(const llm_tokenizer *tokenizer, llm_special_tokens ends,
                                       const cli_list *stop, int keep) {
    const llm_detokenizer_desc desc = {.stop = stop ? stop->items : NULL,
                                       .n_stop = stop ? stop->n : 0};
    const cli_stream s = {llm_detokenizer_create(tokenizer, &desc, &error), ends, 0, keep, NULL, 0};
    TRY(s.text);
    return s;
}
static inline int cli_print_token(int32_t token, void *user) {        /* for on_token */
    cli_stream *s = (cli_stream *)user;
    const char *text;
    size_t size;
    int stop;
    for (int i = 0; i < s->ends.n_eos; i++)
        if (token == s->ends.eos[i]) return s->ended = 1, 0;
    TRY(!llm_detokenizer_add(s->text, token, &text, &size, &stop, &error));
    s->ended = stop >= 0;
    if (!s->keep) {
        fwrite(text, 1, size, stdout);
        fflush(stdout);
    } else if (size) {
        NEED(s->kept = (char *)realloc(s->kept, s->n_kept + size), "out of memory");
        memcpy(s->kept + s->n_kept, text, size);
        s->n_kept += size;
    }
    return s->ended || ferror(stdout);
}
/* prints what it has kept, what might have begun a character or a stop text, and the end of the
 * line, and frees all */
static inline void cli_end_text(cli_stream *s) {
    const char *text = "";
    size_t size = 0;
    llm_detokenizer_finish(s->text, &text, &size);
    if (s->n_kept) fwrite(s->kept, 1, s->n_kept, stdout);
    fwrite(text, 1, size, stdout);
    printf("\n");
    llm_detokenizer_free(s->text);
    free(s->kept);
}

/* ---- texts into tokens ----------------------------------------------------------------------- */
typedef struct cli_texts {
    char **paths;
    int n;
    int n_tokens;                      /* so many are token files (*.tok), not texts: 0, or all   */
    int tsv;                           /* a document is a line, of a prompt and an answer         */
    int special;                       /* special tokens that are written out become themselves   */
    cli_text *texts;
} cli_texts;

/* n files, which can be opened; without any, llm.h. paths has room for n + 1, and is kept. */
static inline cli_texts cli_texts_of(char **paths, int n, int tsv, int special) {
    static char no_file[] = "llm.h";
    NEED(n || !access(no_file, R_OK), "which text? (--help says more)");
    if (!n) paths[n++] = no_file;
    cli_texts texts = {paths, n, 0, tsv, special, NULL};
    for (int i = 0; i < n; i++) {
        TRY(cli_can_open(paths[i], &error) >= 0);
        texts.n_tokens += cli_ends_in(paths[i], ".tok");
    }
    NEED(!texts.n_tokens || texts.n_tokens == n, "either texts or token files, not both");
    if (!texts.n_tokens) texts.texts = (cli_text *)cli_alloc((size_t)n, sizeof *texts.texts);
    return texts;
}
/* a text is read once, as a pipe can be */
static inline const cli_text *cli_read_text(const cli_texts *texts, int i) {
    cli_text *text = &texts->texts[i];
    if (!text->bytes) text->bytes = cli_read(texts->paths[i], &text->size);
    return text;
}
/* Copies a text, without <|endoftext|> if that is special; -> the copy's length. *lines: how often
 * that begins or ends a line, as where it divides documents */
static inline size_t cli_copy_text(char *to, const cli_text *text, int special, int *lines) {
    static const char token[] = "<|endoftext|>";
    const char *from = text->bytes, *const end = from + text->size;
    const size_t n = sizeof token - 1;
    char *const begin = to;
    for (*lines = 0; from < end;) {
        const int found = (size_t)(end - from) >= n && !memcmp(from, token, n);
        *lines += found && (from == text->bytes || from[-1] == '\n' || from + n == end ||
                            from[n] == '\n');
        if (found && special) from += n;
        else *to++ = *from++;
    }
    return (size_t)(to - begin);
}
/* learns from the first 64 MB or so, which stay in memory */
static inline llm_tokenizer *cli_learn_tokenizer(const cli_texts *texts, int vocab) {
    char *all = NULL;
    size_t size = 0;
    int lines;
    for (int i = 0; i < texts->n && size < 1 << 26; i++) {
        const cli_text *text = cli_read_text(texts, i);
        NEED(all = (char *)realloc(all, size + text->size + 1), "out of memory");
        size += cli_copy_text(all + size, text, texts->special, &lines);
        if (!texts->special && lines)
            cli_note("%s divides texts by <|endoftext|>, which is learned as ordinary text: with "
                     "--special it is the token", texts->paths[i]);
        if (memchr(text->bytes, 0, text->size))
            cli_note("%s has bytes of zero in it: is it a text?", texts->paths[i]);
    }
    NEED(size, "%s is empty", texts->paths[0]);
    if (texts->tsv) size = cli_unescape(all, size);
    llm_tokenizer *tokenizer = llm_tokenizer_train(all, size, vocab, NULL, &error);
    TRY(tokenizer);
    free(all);
    return tokenizer;
}
/* what path names, else learned from the texts; of token files, that needs a path: NULL without */
static inline llm_tokenizer *cli_tokenizer(const char *path, const cli_texts *texts, int vocab) {
    if (!*path) return texts->n_tokens ? NULL : cli_learn_tokenizer(texts, vocab);
    llm_tokenizer *tokenizer = llm_tokenizer_load(path, NULL, &error);
    TRY(tokenizer);
    return tokenizer;
}
/* a document: bos, unless that is eos, prompt, answer and eos, where there are such tokens. Answer
 * and eos are learned. */
static inline void cli_add_document(llm_data_writer *writer, const llm_tokenizer *tokenizer,
                                    llm_special_tokens special, int parse_special,
                                    cli_pair_line pair) {
    const size_t most = pair.n_prompt + pair.n_answer + 4;    /* two are of prefixes */
    const int32_t eos = special.n_eos ? special.eos[0] : -1, bos = special.bos;
    int32_t *tokens = (int32_t *)cli_alloc(most, sizeof *tokens);
    unsigned char *context = (unsigned char *)cli_alloc(most, 1);
    size_t n = 0, count;
    if (bos >= 0 && bos != eos) tokens[n++] = bos;
    TRY(!llm_tokenizer_encode(tokenizer, pair.prompt, pair.n_prompt, parse_special, tokens + n,
                              most - n, &count, &error));
    n += count;
    memset(context, 1, n);
    TRY(!llm_tokenizer_encode(tokenizer, pair.answer, pair.n_answer, parse_special, tokens + n,
                              most - n, &count, &error));
    n += count;
    if (eos >= 0) tokens[n++] = eos;
    TRY(!llm_data_writer_add(writer, tokens, context, n, &error));
    free(tokens);
    free(context);
}
/* Texts become a token file in out, which takes their place; token files stay as they are. */
static inline void cli_write_tokens(cli_texts *texts, const llm_tokenizer *tokenizer,
                                    llm_special_tokens special, const char *out, const char *name) {
    const char *path = cli_in(out, name);
    size_t all = 0;
    cli_make_directory(out);
    if (texts->n_tokens) return;
    llm_data_writer *writer = llm_data_writer_open(path, llm_tokenizer_vocab_size(tokenizer), NULL,
                                                   &error);
    TRY(writer);
    for (int i = 0; i < texts->n; i++) {
        const cli_text *text = cli_read_text(texts, i);
        char *bytes = text->bytes;
        size_t left = text->size;
        cli_pair_line pair = {bytes, bytes, 0, left};
        all += left;
        for (int line = 1; left; line++) {
            const int found = texts->tsv ? cli_take_pair(&bytes, &left, &pair) : 1;
            NEED(found >= 0, "%s: line %d is not a prompt, one tab and an answer", texts->paths[i],
                 line);
            if (found) cli_add_document(writer, tokenizer, special, texts->special, pair);
            if (!texts->tsv) left = 0;
        }
        free(text->bytes);
    }
    NEED(all, "%s is empty", texts->paths[0]);
    TRY(!llm_data_writer_finish(writer, &error));
    llm_data_writer_free(writer);
    free(texts->texts);
    texts->n = texts->n_tokens = 1;
    NEED(texts->paths[0] = strdup(path), "out of memory");
}

/* ---- losses ---------------------------------------------------------------------------------- */
/* a mean of values that count for their weights */
typedef struct cli_mean { double sum, weight; } cli_mean;
/* of one or more batches: over their targets, and balance over the batches */
typedef struct cli_losses {
    cli_mean main, mtp, balance;
    double bytes;                      /* of text, that the targets stand for                     */
    double least, most;                /* loads of experts                                        */
    llm_train_stats last;              /* of the last one alone                                   */
} cli_losses;
static inline double cli_mean_of(cli_mean m) { return m.weight ? m.sum / m.weight : 0; }
static inline double cli_bits_per_byte(const cli_losses *l) {
    return l->bytes ? l->main.sum / log(2) / l->bytes : 0;
}
static inline void cli_weigh(cli_mean *m, double value, double weight) {
    m->sum += value * weight;
    m->weight += weight;
}
/* the batch whose figures are in l->last, to those before */
static inline void cli_add_losses(cli_losses *l) {
    const llm_train_stats *s = &l->last;
    if (!l->balance.weight || s->expert_load_min < l->least) l->least = s->expert_load_min;
    if (s->expert_load_max > l->most) l->most = s->expert_load_max;
    cli_weigh(&l->main, s->main_loss, (double)s->n_targets);
    cli_weigh(&l->mtp, s->mtp_loss[0], (double)s->mtp_targets[0]);
    cli_weigh(&l->balance, s->balance_loss, 1);
}
/* the bytes that n targets stand for; bytes: of each token, or NULL */
static inline void cli_add_bytes(cli_losses *l, const int *bytes, const int32_t *targets, int n) {
    for (int i = 0; bytes && i < n; i++)
        if (targets[i] >= 0) l->bytes += bytes[targets[i]];
}

/* ---- progress -------------------------------------------------------------------------------- */
/* One line, written over itself on a terminal; what comes first is what a narrow terminal shows. */
typedef struct cli_line {
    char text[512];
    int n, width, full;                /* full: an addition found no room, so none does           */
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
/* can lines be written over? Not where somebody gathers them */
static inline int cli_terminal(void) { return cli_exit == exit && isatty(1); }
/* is it time to show it again? Ten times a second; in a file every ten seconds */
static inline int cli_due(const cli_line *line) {
    return cli_seconds() - line->shown >= (cli_terminal() ? 0.1 : 10);
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
/* Others time this program: it says "ready", and then, for each line of the standard input, which
 * is a number of runs, the seconds of each, and "done". */
static inline void cli_serve(double (*run)(void *argument), void *argument) {
    char line[64];
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        for (int n = atoi(line); n > 0; n--) printf("%.6f\n", run(argument));
        printf("done\n");
        fflush(stdout);
    }
}
/* begins it anew, with a bar of the share that is done and the seconds that are left */
static inline void cli_bar(cli_line *line, double share, double left) {
    static const char bar[] = "########################........................";
    const int columns = cli_columns(), most = (int)sizeof line->text - 1;
    const int length = columns < 60 ? 8 : columns < 100 ? 16 : 24;
    const int done = (int)(fmin(fmax(share, 0), 1) * length);
    line->width = cli_terminal() && columns < most ? columns : most;
    line->n = line->full = 0;
    cli_add(line, "[%.*s]", length, bar + 24 - done);
    if (share >= 1) cli_add(line, " done");
    else if (left >= 3600) cli_add(line, " %.0f:%02d:%02d left", floor(left / 3600),
                              (int)fmod(left / 60, 60), (int)fmod(left, 60));
    else cli_add(line, " %d:%02d left", (int)(left / 60), (int)fmod(left, 60));
}
/* last: nothing will be written over it */
static inline void cli_show(cli_line *line, int last) {
    cli_open_line = cli_terminal();
    printf(cli_open_line ? "\r%s\033[K" : "%s\n", line->text);
    if (last) cli_end_line();
    fflush(stdout);
    line->shown = cli_seconds();
}

/* of a loop: the share that is done, first 0 */
static inline void cli_show_share(double share, const char *what) {
    static cli_line line;
    static double start;
    if (share <= 0) start = line.shown = cli_seconds();
    if (share <= 0 || !cli_due(&line)) return;
    cli_bar(&line, share, (cli_seconds() - start) * (1 - share) / share);
    cli_add(&line, "  %s", what);
    cli_show(&line, 0);
}
/* what a training says first; steps: how many updates there will be, 0 where nobody knows */
static inline void cli_add_update(cli_line *line, long long step, int steps, const cli_losses *l,
                                  double tokens_per_second) {
    cli_add(line, steps ? "  %lld/%d" : "  update %lld", step, steps);
    cli_add(line, "  loss %.3f", cli_mean_of(l->main));
    if (l->bytes) cli_add(line, " (%.3f bits/byte)", cli_bits_per_byte(l));
    cli_add(line, "  %.0f tokens/s", tokens_per_second);
}

/* ---- the directory of a training ------------------------------------------------------------- */
static inline const char *cli_checkpoint(const char *out, int64_t step) {
    char name[40];
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)step);
    return cli_in(out, name);
}
static inline void cli_remove(const char *path) {
    NEED(!remove(path), "%s: %s", path, strerror(errno));
}
/* The newest checkpoint below a step, 0 if there is none. Unless keep is 0, the others are removed,
 * but for the keep newest, and so are halves that a killed run has left. */
static inline int64_t cli_checkpoints(const char *out, int64_t below, int keep) {
    int64_t oldest = INT64_MAX, newest = 0;
    int n = 0;
    DIR *directory = opendir(out);
    if (!directory && errno == ENOENT) return 0;
    NEED(directory, "%s: %s", out, strerror(errno));
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *name = entry->d_name, *half = strstr(name, ".tmp");
        if (strncmp(name, "checkpoint-", 11)) continue;
        const int64_t step = strtoll(name + 11, NULL, 10);
        if (step < 1 || strcmp(cli_checkpoint(out, step) + strlen(out) + 1, name)) {
            if (keep && half && !half[4 + strspn(half + 4, "0123456789")])
                cli_remove(cli_in(out, name));
        } else if (step < below) {
            n++;
            oldest = step < oldest ? step : oldest;
            newest = step > newest ? step : newest;
        } else if (keep) {
            cli_remove(cli_in(out, name));
        }
    }
    closedir(directory);
    if (!keep || n <= keep) return newest;
    cli_remove(cli_checkpoint(out, oldest));
    return cli_checkpoints(out, below, keep);
}
/* Loads the newest checkpoint that can be read, and into data what the caller had it keep, of size
 * bytes; a damaged one is said and passed over. */
static inline void cli_load_checkpoint(llm_trainer *trainer, const char *out, void *data,
                                       size_t size) {
    char reason[sizeof error.message] = "";
    int64_t step = INT64_MAX;
    llm_result result = LLM_ERR_FORMAT;
    size_t kept_size;
    while (result && (step = cli_checkpoints(out, step, 0)) > 0) {
        result = llm_trainer_load(trainer, cli_checkpoint(out, step), &error);
        TRY(!result || result == LLM_ERR_FORMAT);
        if (result && !*reason) memcpy(reason, error.message, sizeof reason);
    }
    NEED(step > 0, "%s", *reason ? reason : "there is no checkpoint to go on from");
    const void *kept = llm_trainer_user_data(trainer, &kept_size);
    NEED(kept_size == size, "%s: of another program, or an older version of this",
         cli_checkpoint(out, step));
    if (*reason) cli_note("%s: going on from the one of update %lld", reason, (long long)step);
    memcpy(data, kept, size);
}
/* log.csv with the rows up to step that it has, at step 0 with its head only; nobody else may have
 * it open, as two runs do not share a directory */
static inline FILE *cli_open_log(const char *out, int64_t step, const char *head) {
    const char *path = cli_in(out, "log.csv");
    char line[512];
    long end = 0;
    FILE *log = fopen(path, "a+");
    NEED(log && !setvbuf(log, NULL, _IOLBF, 0), "%s: %s", path, strerror(errno));
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
static inline void cli_save(const llm_model *model, const llm_tokenizer *tokenizer,
                            const char *out) {
    TRY(!llm_model_save(model, out, LLM_F32, &error));
    if (tokenizer) TRY(!llm_tokenizer_save(tokenizer, out, &error));
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
    llm_special_tokens special = {.bos = -1, .pad = -1};
    for (int i = 0; i < 2 && !special.n_eos; i++) {
        special.bos = llm_tokenizer_token(tokenizer, names[i][0], strlen(names[i][0]));
        special.eos[0] = llm_tokenizer_token(tokenizer, names[i][1], strlen(names[i][1]));
        special.n_eos = special.eos[0] >= 0;
    }
    return special;
}
/* those of a model; if it does not say what ends a text, of its tokenizer */
static inline llm_special_tokens cli_special_of(const llm_model *model,
                                                const llm_tokenizer *tokenizer) {
    const llm_special_tokens special = llm_model_special_tokens(model);
    return special.n_eos ? special : cli_special_tokens(tokenizer);
}
/* bytes of text that each token stands for, none for a special one; NULL without a tokenizer */
static inline int *cli_token_bytes(const llm_tokenizer *tokenizer, int vocab) {
    const int n = llm_tokenizer_vocab_size(tokenizer);
    if (!tokenizer) return NULL;
    NEED(n == vocab, "a tokenizer of %d tokens, but token files of %d", n, vocab);
    int *bytes = (int *)cli_alloc((size_t)n, sizeof *bytes);
    for (int32_t i = 0; i < n; i++) {
        size_t size = 0;
        if (!llm_tokenizer_is_special(tokenizer, i))
            llm_tokenizer_decode(tokenizer, &i, 1, NULL, 0, &size, NULL);
        bytes[i] = (int)size;
    }
    return bytes;
}
static inline int cli_print_memory(const llm_memory *m) {
    printf("parameters %10.1f MB\ngradients %11.1f\noptimizer %11.1f\nactivations %9.1f\n"
           "scratch %13.1f\ntotal %15.1f\n",
           1e-6 * (double)m->parameters, 1e-6 * (double)m->gradients, 1e-6 * (double)m->optimizer,
           1e-6 * (double)m->activations, 1e-6 * (double)m->scratch, 1e-6 * (double)m->total);
    return 0;
}
/* says so if that is much */
static inline void cli_note_session(const llm_config *config, const llm_session_desc *desc) {
    llm_memory memory;
    TRY(!llm_session_memory(config, desc, &memory, &error));
    if (memory.total > 1000000000)
        cli_note("a session of %d x %d tokens takes %.1f GB", desc->n_sequences, desc->max_seq_len,
                 1e-9 * (double)memory.total);
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
/* Another number of layers and heads, width and inner width of a preset: 0 leaves it as it is. The
 * sizes of latent attention and of experts follow the width. */
static inline void cli_shape(llm_config *c, int layers, int heads, int width, int ffn) {
    int *const by_width[] = {&c->d_ffn, &c->moe_d_ffn, &c->q_lora_rank, &c->kv_lora_rank};
    int *const by_head[] = {&c->qk_nope_head_dim, &c->v_head_dim, &c->qk_rope_head_dim};
    const int64_t old_width = c->d_model, old_heads = c->n_heads;
    if (layers) c->n_layers = layers;
    if (heads) c->n_heads = heads;
    if (width) c->d_model = width;
    NEED(c->d_model % c->n_heads == 0, "a width of %d is not a multiple of %d heads", c->d_model,
         c->n_heads);
    if (c->first_k_dense > c->n_layers) c->first_k_dense = c->n_layers;
    for (int i = 0; i < 4; i++)
        *by_width[i] = (int)(*by_width[i] * (int64_t)c->d_model / old_width);
    for (int i = 0; i < 3; i++)        /* by the width of a head */
        *by_head[i] = (int)(*by_head[i] * (c->d_model * old_heads) / (old_width * c->n_heads));
    if (ffn) c->d_ffn = ffn;
    if (c->arch == LLM_ARCH_DEEPSEEK_V3)
        c->qk_rope_head_dim = c->qk_rope_head_dim < 2 ? 2 : c->qk_rope_head_dim / 2 * 2;
}

/* the options of a new model and of its training, which the programs that train have in common */
typedef struct cli_model {
    const char *preset;
    int arch, layers, heads, width, ffn, context;
    double dropout;
} cli_model;
typedef struct cli_training {
    int seq, batch, accumulate, steps, schedule, warmup, precision, recompute, seed, threads;
    double lr, min_lr, beta2, weight_decay, clip;
    llm_isa isa;                       /* cap of the instruction set */
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
static inline llm_train_desc cli_train_desc(cli_option *options, const cli_training *t) {
    const int few = t->steps < 500 && t->schedule != LLM_SCHEDULE_CONSTANT;
    const int ratio = cli_given(options, "--min-lr") && t->lr > 0;
    return (llm_train_desc){
        .batch_size = t->batch, .seq_len = t->seq, .grad_accum_steps = t->accumulate,
        .learning_rate = cli_or_off(t->lr),
        .min_lr_ratio = ratio ? cli_or_off(t->min_lr / t->lr) : 0.1f,
        .schedule = (llm_schedule)t->schedule,
        .max_steps = t->schedule == LLM_SCHEDULE_CONSTANT ? 0 : t->steps,  /* that one has no end */
        .warmup_steps = cli_given(options, "--warmup") ? t->warmup : few ? t->steps / 10 : 50,
        .beta2 = (float)t->beta2,
        .weight_decay = cli_or_off(t->weight_decay),
        .grad_clip = cli_or_off(t->clip),
        .precision = (llm_precision)t->precision, .recompute = t->recompute,
        .seed = (uint64_t)t->seed, .n_threads = t->threads};
}
static inline llm_config cli_new_config(const cli_model *m, int vocab, int seq) {
    static const char *const tiny[] = {"deepseek-tiny", "gpt2-tiny"};
    llm_config c;
    TRY(!llm_config_preset(&c, *m->preset ? m->preset : tiny[m->arch], &error));
    cli_shape(&c, m->layers, m->heads, m->width, m->ffn);
    c.vocab_size = vocab;
    c.max_seq_len = m->context ? m->context : seq;
    c.embd_pdrop = c.attn_pdrop = c.resid_pdrop = (float)m->dropout;
    return c;
}
/* with fresh weights; its ends of text are the tokenizer's, if there is one */
static inline llm_model *cli_new_model(const llm_config *config, const cli_training *t,
                                       const llm_tokenizer *tokenizer) {
    const llm_model_desc desc = {.seed = (uint64_t)t->seed, .n_threads = t->threads, .isa = t->isa};
    const llm_special_tokens ends = cli_special_tokens(tokenizer);
    llm_model *model = llm_model_create(config, &desc, &error);
    TRY(model && !llm_model_set_special_tokens(model, &ends, &error));
    return model;
}
/* Windows of token files, to learn, or, in their order, to validate. Of all windows, a share is
 * kept for validation; 0: these files serve one purpose only. */
static inline llm_data *cli_open_data(const cli_texts *files, const cli_training *t, float share,
                                      int to_validate) {
    const llm_data_desc desc = {
        .batch_size = t->batch, .seq_len = t->seq, .seed = (uint64_t)t->seed,
        .valid_fraction = share, .valid = to_validate && share > 0, .sequential = to_validate,
        .skip_empty = 1};              /* windows with nothing to learn */
    llm_data *data = llm_data_open((const char *const *)files->paths, files->n, &desc, &error);
    NEED(data, "%s%s", error.message, error.code == LLM_ERR_ARGUMENT ? " (--seq)" : "");
    TRY(!llm_data_verify(data, &error));
    return data;
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
    cli_check_output();
}
#endif
