/* Lets writes to chosen paths fail, in whatever library they are made. Loaded by LD_PRELOAD; full_disk.py sets it up.
 *
 * disk_trace: paths opened for writing are added to a log. disk_fail: what is done to paths that contain a text fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char wanted[4096];
static char root[4096];
static int mode = 0; /* 0 nothing, 1 writes fail, 2 the file cannot be made, 3 fsync fails */
static int number = 0;
static long room = 0; /* bytes that can still be written in mode 1 */
static int trace = -1;

void disk_fail(const char *text, int how, int error, long bytes) {
    strncpy(wanted, text, sizeof wanted - 1);
    mode = how, number = error, room = bytes;
}

void disk_trace(const char *below, int descriptor) {
    strncpy(root, below, sizeof root - 1);
    trace = descriptor;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static ssize_t raw_write(int fd, const void *data, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    return real(fd, data, count);
}

static int is_wanted(const char *path) { return mode && path && wanted[0] && strstr(path, wanted); }

static int descriptor_is_wanted(int fd) {
    char link[64], path[4096];
    if (!mode) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_wanted(path);
}

static int full(int fd, size_t count) { /* whether a write of so many bytes fails */
    if (mode != 1 || !descriptor_is_wanted(fd)) return 0;
    if ((long)count <= room) {
        room -= (long)count;
        return 0;
    }
    errno = number;
    return 1;
}

static void told(const char *path, int flags) {
    if (trace < 0 || !path || !(flags & (O_WRONLY | O_RDWR)) || !strstr(path, root)) return;
    raw_write(trace, path, strlen(path));
    raw_write(trace, "\n", 1);
}

static int refused(const char *path, int flags) {
    if (mode == 2 && (flags & (O_WRONLY | O_RDWR)) && is_wanted(path)) {
        errno = number;
        return 1;
    }
    return 0;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(name);                                                                                                    \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t permissions = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;                               \
        va_end(more);                                                                                                  \
        if (refused(path, flags)) return -1;                                                                           \
        told(path, flags);                                                                                             \
        return real(path, flags, permissions);                                                                         \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        REAL(name);                                                                                                    \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t permissions = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;                               \
        va_end(more);                                                                                                  \
        if (refused(path, flags)) return -1;                                                                           \
        told(path, flags);                                                                                             \
        return real(folder, path, flags, permissions);                                                                 \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *how) {                                                                    \
        REAL(name);                                                                                                    \
        int flags = strpbrk(how, "wa+") ? O_WRONLY : O_RDONLY;                                                         \
        if (refused(path, flags)) return NULL;                                                                         \
        told(path, flags);                                                                                             \
        return real(path, how);                                                                                        \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t count) {
    if (full(fd, count)) return -1;
    return raw_write(fd, data, count);
}

#define PWRITE(name, offset_type)                                                                                      \
    ssize_t name(int fd, const void *data, size_t count, offset_type at) {                                             \
        REAL(name);                                                                                                    \
        if (full(fd, count)) return -1;                                                                                \
        return real(fd, data, count, at);                                                                              \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    size_t total = 0;
    for (int part = 0; part < count; part++) total += parts[part].iov_len;
    if (full(fd, total)) return -1;
    return real(fd, parts, count);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    if (full(fileno(file), size * count)) return 0;
    return real(data, size, count, file);
}

#define GROW(name, offset_type)                                                                                        \
    int name(int fd, offset_type length) {                                                                             \
        REAL(name);                                                                                                    \
        if (length > 0 && full(fd, (size_t)length)) return -1;                                                         \
        return real(fd, length);                                                                                       \
    }
GROW(ftruncate, off_t)
GROW(ftruncate64, off64_t)

int fsync(int fd) {
    REAL(fsync);
    if (mode == 3 && descriptor_is_wanted(fd)) {
        errno = number;
        return -1;
    }
    return real(fd);
}

int mkdir(const char *path, mode_t permissions) {
    REAL(mkdir);
    struct stat there;
    if (mode == 2 && is_wanted(path) && stat(path, &there) != 0) {
        errno = number;
        return -1;
    }
    return real(path, permissions);
}
