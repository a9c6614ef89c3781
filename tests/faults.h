/* faults.h -- llm.h on a system that fails when it is told to. Included instead of ../llm.h: each
 * call of the system that the implementation makes goes through a function here, which counts it,
 * keeps a record of what is open, allocated, written and durable, and may let it fail. */
#ifndef FAULTS_H
#define FAULTS_H
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

/* what happens at call number `at`, counted from 1 */
typedef enum faults_how {
    FAULT_NONE,                     /* the calls are written down                               */
    FAULT_ONCE,                     /* it fails, with errno `code`                              */
    FAULT_FULL,                     /* so do all later ones that write                          */
    FAULT_SHORT,                    /* half of the bytes are read, or written                   */
    FAULT_SHRINK,                   /* the files of the directory lose their second halves      */
    FAULT_LIE,                      /* sizes of files: 4096 more than there are, as in sysfs    */
    FAULT_KILL                      /* the process ends before it                               */
} faults_how;
enum { FAULTS_KILLED = 99,          /* its exit status                                          */
       FAULTS_FILES = 64, FAULTS_CALLS = 2000 };

/* LOOKS changes nothing that a later process sees; WRITES may fail for want of space */
typedef enum faults_kind { FAULTS_LOOKS, FAULTS_WRITES, FAULTS_REMOVES } faults_kind;
typedef struct faults_call {
    const char *name;
    faults_kind kind;
    int moves, absent;              /* bytes go through it; it finds nothing                    */
} faults_call;
typedef struct faults_file { char path[512]; int open, written, buffered, dirty; } faults_file;
typedef struct faults_block { struct faults_block *next; size_t size; int live; } faults_block;

static struct {
    faults_how how;
    int code, counting;
    long n, at;                     /* calls so far; the one that fails                         */
    const char *failed;             /* its name, once it has                                    */
    faults_call calls[FAULTS_CALLS];
    int no_mmap, real_fsync;
    const char *directory;          /* what FAULT_SHRINK shortens                               */
    faults_file files[FAULTS_FILES];/* by descriptor                                            */
    faults_file closed[FAULTS_FILES];          /* with something that is not durable            */
    int n_closed, n_open, n_maps;
    /* names that no fsync of the directory has made durable: those given, that of the journal,
     * which has to be the first, before it those created; and those removed, which the journal
     * has to outlive */
    int directory_dirty, journal_dirty, created_dirty, removed_dirty;
    int unsafe_renames, unsafe_removes, unlocked, wide_modes;
    faults_block *blocks;
    long n_blocks;
    int bad_frees;
} faults;

/* ---- memory: what is released stays, filled, until faults_collect: a second release shows ---- */
static void *faults_malloc(size_t size) {
    faults_block *block = (faults_block *)malloc(sizeof *block + size);
    if (!block) return NULL;
    block->next = faults.blocks;
    block->size = size;
    block->live = 1;
    faults.blocks = block;
    faults.n_blocks++;
    memset(block + 1, 0xA5, size);
    return block + 1;
}
static void faults_free(void *memory) {
    faults_block *block = faults.blocks;
    if (!memory) return;
    while (block && (void *)(block + 1) != memory) block = block->next;
    if (!block || !block->live) {
        faults.bad_frees++;
        return;
    }
    block->live = 0;
    faults.n_blocks--;
    memset(memory, 0xDD, block->size);
}
static void faults_collect(void) {
    faults_block **link = &faults.blocks, *block;
    while ((block = *link) != NULL) {
        if (block->live) link = &block->next;
        else {
            *link = block->next;
            free(block);
        }
    }
}

/* ---- which call fails ------------------------------------------------------------------------ */
static void faults_shrink(void) {
    DIR *d = opendir(faults.directory);
    struct dirent *entry;
    while (d && (entry = readdir(d)) != NULL) {
        char path[600];
        struct stat status;
        snprintf(path, sizeof path, "%s/%s", faults.directory, entry->d_name);
        if (stat(path, &status) == 0 && S_ISREG(status.st_mode) &&
            truncate(path, status.st_size / 2) != 0)
            perror(path);
    }
    if (d) closedir(d);
}

static int faults_hit(const char *call, faults_kind kind) {    /* 1: it fails; errno is set */
    if (!faults.counting) return 0;
    faults.n++;
    if (faults.how == FAULT_NONE && faults.n <= FAULTS_CALLS) {
        faults_call *this_one = &faults.calls[faults.n - 1];
        memset(this_one, 0, sizeof *this_one);
        this_one->name = call;
        this_one->kind = kind;
    }
    if (faults.n < faults.at) return 0;
    if (faults.n == faults.at) faults.failed = call;
    if (faults.n == faults.at && faults.how == FAULT_KILL) _exit(FAULTS_KILLED);
    if (faults.n == faults.at && faults.how == FAULT_SHRINK) faults_shrink();
    if ((faults.how == FAULT_ONCE && faults.n == faults.at) ||
        (faults.how == FAULT_FULL && kind == FAULTS_WRITES)) {
        errno = faults.code;
        return 1;
    }
    return 0;
}
static faults_call *faults_this(void) {                /* the record of the call that runs */
    static faults_call none;
    return faults.counting && faults.how == FAULT_NONE && faults.n <= FAULTS_CALLS
               ? &faults.calls[faults.n - 1] : &none;
}
/* of n bytes, those that are moved */
static size_t faults_part(size_t n) {
    faults_this()->moves = n > 0;
    if (!faults.counting || faults.how != FAULT_SHORT || faults.n != faults.at) return n;
    errno = 0;
    return n / 2;
}

/* ---- the record of files --------------------------------------------------------------------- */
static faults_file *faults_at(int descriptor) {
    static faults_file other;
    return descriptor >= 0 && descriptor < FAULTS_FILES ? &faults.files[descriptor] : &other;
}
static void faults_opened(int descriptor, const char *path) {
    faults_file *file = faults_at(descriptor);
    memset(file, 0, sizeof *file);
    snprintf(file->path, sizeof file->path, "%s", path);
    file->open = 1;
    faults.n_open++;
}
static void faults_closed(int descriptor) {
    faults_file *file = faults_at(descriptor);
    if (!file->open) return;
    file->open = 0;
    faults.n_open--;
    if (file->dirty) faults.closed[faults.n_closed++ % FAULTS_FILES] = *file;
}
/* a new file never gives rights that the one which it replaces does not give */
static void faults_check_mode(int descriptor) {
    char path[512], *end;
    struct stat mine, old;
    snprintf(path, sizeof path, "%s", faults_at(descriptor)->path);
    end = strstr(path, ".tmp");
    if (end) *end = 0;
    if (fstat(descriptor, &mine) == 0 && stat(path, &old) == 0 &&
        (mine.st_mode & 077 & ~old.st_mode))
        faults.wide_modes++;
}
static int faults_is_dirty(const char *path) {
    int i;
    for (i = 0; i < FAULTS_FILES; i++)
        if ((faults.files[i].open && faults.files[i].dirty &&
             !strcmp(faults.files[i].path, path)) ||
            (faults.closed[i].dirty && !strcmp(faults.closed[i].path, path)))
            return 1;
    return 0;
}

/* ---- the calls ------------------------------------------------------------------------------- */
static int faults_open(const char *path, int flags, ...) {
    const int writes = (flags & O_CREAT) != 0;         /* else it is to lock, or to read */
    va_list arguments;
    int descriptor, mode;
    va_start(arguments, flags);
    mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    if (faults_hit(writes ? "open to write" : "open", writes ? FAULTS_WRITES : FAULTS_LOOKS))
        return -1;
    descriptor = open(path, flags, mode);
    if (descriptor >= 0 && flags & O_CREAT) faults.created_dirty = 1;
    if (descriptor >= 0) faults_opened(descriptor, path);
    else faults_this()->absent = 1;
    return descriptor;
}
static int faults_fcntl(int descriptor, int what, int from) {
    const int other = faults_hit("fcntl", FAULTS_LOOKS) ? -1 : fcntl(descriptor, what, from);
    if (other >= 0) faults_opened(other, faults_at(descriptor)->path);
    return other;
}
static int faults_close(int descriptor) {
    const int failed = faults_hit("close", FAULTS_LOOKS), code = errno;
    const int result = close(descriptor);
    faults_closed(descriptor);
    if (!failed) return result;
    errno = code;
    return -1;
}
static FILE *faults_fdopen(int descriptor, const char *mode) {
    return faults_hit("fdopen", FAULTS_LOOKS) ? NULL : fdopen(descriptor, mode);
}
static int faults_fclose(FILE *file) {                 /* the stream is gone in any case */
    const int descriptor = fileno(file), writes = faults_at(descriptor)->written;
    const int failed = faults_hit(writes ? "fclose of a written file" : "fclose",
                                  writes ? FAULTS_WRITES : FAULTS_LOOKS);
    const int code = errno, result = fclose(file);
    faults_closed(descriptor);
    if (!failed) return result;
    errno = code;
    return EOF;
}
static size_t faults_fread(void *to, size_t size, size_t n, FILE *file) {
    return faults_hit("fread", FAULTS_LOOKS) ? 0 : fread(to, size, faults_part(n), file);
}
static size_t faults_fwrite(const void *from, size_t size, size_t n, FILE *file) {
    faults_file *record = faults_at(fileno(file));
    if (faults_hit("fwrite", FAULTS_WRITES)) return 0;
    faults_check_mode(fileno(file));
    record->written = record->dirty = record->buffered = 1;
    return fwrite(from, size, faults_part(n), file);
}
static int faults_fflush(FILE *file) {
    if (faults_hit("fflush", FAULTS_WRITES)) return EOF;
    faults_at(fileno(file))->buffered = 0;
    return fflush(file);
}
static int faults_fseeko(FILE *file, off_t at, int from) {
    return faults_hit("fseeko", FAULTS_LOOKS) ? -1 : fseeko(file, at, from);
}
static int faults_fsync(int descriptor) {
    faults_file *file = faults_at(descriptor);
    struct stat status;
    if (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) {
        if (faults_hit("fsync of a directory", FAULTS_LOOKS)) return -1;
        faults.directory_dirty = faults.journal_dirty = faults.created_dirty = 0;
        faults.removed_dirty = 0;
    } else {
        if (faults_hit("fsync", FAULTS_WRITES)) return -1;
        if (!file->buffered) file->dirty = 0;
    }
    return faults.real_fsync ? fsync(descriptor) : 0;
}
static int faults_is_locked(const char *path) {
    const int descriptor = open(path, O_RDONLY);
    const int locked = descriptor >= 0 && flock(descriptor, LOCK_EX | LOCK_NB) != 0;
    if (descriptor >= 0) close(descriptor);
    return locked;
}
/* Unless the temporary file or its directory is locked, another writer would take the file for one
 * that a dead process has left. */
static void faults_check_lock(const char *from) {
    char directory[512];
    char *slash;
    snprintf(directory, sizeof directory, "%s", from);
    slash = strrchr(directory, '/');
    if (slash) *slash = 0;
    faults.unlocked += !faults_is_locked(from) && !faults_is_locked(slash ? directory : ".");
}
static int faults_rename(const char *from, const char *to) {
    const int is_journal = strstr(to, "model.save.json") != NULL;
    struct stat status;
    if (faults_hit("rename", FAULTS_WRITES)) return -1;
    faults.unsafe_renames += faults_is_dirty(from) || faults.journal_dirty ||
                             (is_journal && faults.created_dirty);
    faults.journal_dirty |= is_journal;
    faults.directory_dirty = 1;
    /* some file systems wait until a file that is replaced is on the disk, so it goes first */
    if (lstat(from, &status) == 0) {
        faults_check_lock(from);
        if (!faults.real_fsync) (void)unlink(to);
    }
    return rename(from, to);
}
static int faults_unlink(const char *path) {
    if (faults_hit("unlink", FAULTS_REMOVES)) return -1;
    if (!strstr(path, ".tmp")) {
        const int is_journal = strstr(path, "model.save.json") != NULL;
        faults.unsafe_removes += faults.directory_dirty || (is_journal && faults.removed_dirty);
        faults.removed_dirty |= !is_journal;
    }
    return unlink(path);
}
static int faults_mkdir(const char *path, mode_t mode) {
    return faults_hit("mkdir", FAULTS_WRITES) ? -1 : mkdir(path, mode);
}
static int faults_status(int result, struct stat *status) {
    if (result != 0) faults_this()->absent = 1;
    else if (faults.how == FAULT_LIE && S_ISREG(status->st_mode)) status->st_size += 4096;
    return result;
}
static int faults_stat(const char *path, struct stat *status) {
    return faults_hit("stat", FAULTS_LOOKS) ? -1 : faults_status(stat(path, status), status);
}
static int faults_lstat(const char *path, struct stat *status) {
    return faults_hit("lstat", FAULTS_LOOKS) ? -1 : faults_status(lstat(path, status), status);
}
static int faults_fstat(int descriptor, struct stat *status) {
    const int result = faults_hit("fstat", FAULTS_LOOKS)
                           ? -1 : faults_status(fstat(descriptor, status), status);
    status->st_nlink = 0;              /* some file systems do not count links */
    return result;
}
static int faults_fchmod(int descriptor, mode_t mode) {
    return faults_hit("fchmod", FAULTS_WRITES) ? -1 : fchmod(descriptor, mode);
}
/* as NFS has it: only who may write to a file can lock it against others */
static int faults_flock(int descriptor, int what) {
    struct stat status;
    if (faults_hit("flock", FAULTS_LOOKS)) return -1;
    if (what & LOCK_EX && (fcntl(descriptor, F_GETFL, 0) & O_ACCMODE) == O_RDONLY &&
        fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode)) {
        errno = EBADF;
        return -1;
    }
    return flock(descriptor, what);
}
static void *faults_mmap(void *at, size_t n, int protection, int flags, int descriptor,
                         off_t offset) {
    void *map = MAP_FAILED;
    if (!faults_hit("mmap", FAULTS_LOOKS) && !faults.no_mmap)
        map = mmap(at, n, protection, flags, descriptor, offset);
    faults.n_maps += map != MAP_FAILED;
    return map;
}
static int faults_munmap(void *at, size_t n) {
    const int failed = faults_hit("munmap", FAULTS_LOOKS), result = munmap(at, n);
    faults.n_maps--;
    return failed ? -1 : result;
}

/* Macros with parameters leave `struct stat` and variables of these names alone. .ci/run looks
 * whether there is one for each call of the system that the header makes. */
#undef fclose
#undef fread
#undef fwrite
#define open(...) faults_open(__VA_ARGS__)
#define fcntl(descriptor, what, from) faults_fcntl(descriptor, what, from)
#define close(descriptor) faults_close(descriptor)
#define fdopen(descriptor, mode) faults_fdopen(descriptor, mode)
#define fclose(file) faults_fclose(file)
#define fread(to, size, n, file) faults_fread(to, size, n, file)
#define fwrite(from, size, n, file) faults_fwrite(from, size, n, file)
#define fflush(file) faults_fflush(file)
#define fseeko(file, at, from) faults_fseeko(file, at, from)
#define fsync(descriptor) faults_fsync(descriptor)
#define rename(from, to) faults_rename(from, to)
#define unlink(path) faults_unlink(path)
#define mkdir(path, mode) faults_mkdir(path, mode)
#define stat(path, status) faults_stat(path, status)
#define lstat(path, status) faults_lstat(path, status)
#define fstat(descriptor, status) faults_fstat(descriptor, status)
#define fchmod(descriptor, mode) faults_fchmod(descriptor, mode)
#define flock(descriptor, what) faults_flock(descriptor, what)
#define mmap(at, n, protection, flags, descriptor, offset) \
    faults_mmap(at, n, protection, flags, descriptor, offset)
#define munmap(at, n) faults_munmap(at, n)

static uint64_t faults_shard_bytes = UINT64_C(5000000000);
#define LLM_SHARD_BYTES faults_shard_bytes
#define LLM_MALLOC(size) faults_malloc(size)
#define LLM_FREE(memory) faults_free(memory)
#define LLM_NO_SIMD                 /* no kernel matters here */
#define LLM_IMPLEMENTATION
#include "../llm.h"

#undef close
#undef fclose
#undef fread
#undef fwrite
#undef fflush
#undef rename
#undef unlink
#undef mkdir
#undef stat
#undef lstat
#endif
