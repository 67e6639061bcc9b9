// Faults of the machine, for one process: a disk that is full, read-only, failing or slow, and a wall clock that is moved.
// Loaded with LD_PRELOAD. It needs no privilege, touches nobody else, and comes and goes while the process runs.
//
// FAULTS_FILE names a file that holds a `struct faults`, written by the test (see src/faults.rs) and mapped here.
// FAULTS_DIR is the directory below which files are affected.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

struct faults {
    int64_t clock_offset_ns;  // added to the wall clock
    int64_t write_errno;      // what takes space or changes a file fails with it; 0: nothing fails
    int64_t sync_delay_ms;    // fsync and its kin take so much longer
};

static const struct faults none;
static const volatile struct faults *faults = &none;
static char directory[PATH_MAX];
static size_t directory_length;

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("FAULTS_DIR"), *file = getenv("FAULTS_FILE");
    if (below == NULL || file == NULL) return;
    snprintf(directory, sizeof directory, "%s", below);
    directory_length = strlen(directory);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *faults, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) faults = mapped;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int path_affected(const char *path) {
    return path != NULL && directory_length > 0 && strncmp(path, directory, directory_length) == 0;
}

static int fd_affected(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path_affected(path);
}

// Whether what takes space fails: on a full disk and on a read-only one.
static int refuses_bytes(int fd) {
    int error = (int)faults->write_errno;
    if (error == 0 || !fd_affected(fd)) return 0;
    errno = error;
    return 1;
}

// Whether what changes a directory fails: a full disk still renames, removes, and opens.
static int refuses_changes(const char *path) {
    int error = (int)faults->write_errno;
    if (error == 0 || error == ENOSPC || !path_affected(path)) return 0;
    errno = error;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    return refuses_bytes(fd) ? -1 : real(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(pwrite);
    return refuses_bytes(fd) ? -1 : real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    return refuses_bytes(fd) ? -1 : real(fd, bytes, count, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return refuses_bytes(fd) ? -1 : real(fd, parts, count);
}

int fallocate(int fd, int mode, off_t at, off_t length) {
    REAL(fallocate);
    return refuses_bytes(fd) ? -1 : real(fd, mode, at, length);
}

int fallocate64(int fd, int mode, off64_t at, off64_t length) {
    REAL(fallocate64);
    return refuses_bytes(fd) ? -1 : real(fd, mode, at, length);
}

static int refuses_open(const char *path, int flags) {
    return (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0 && refuses_changes(path);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return refuses_open(path, flags) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to) {
    REAL(rename);
    return refuses_changes(to) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return refuses_changes(path) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return refuses_changes(path) ? -1 : real(path, mode);
}

// A full disk says so, too, when it is asked for its free space.
int statvfs(const char *restrict path, struct statvfs *restrict found) {
    REAL(statvfs);
    int outcome = real(path, found);
    if (outcome == 0 && faults->write_errno == ENOSPC && path_affected(path)) found->f_bavail = found->f_bfree = 0;
    return outcome;
}

int statvfs64(const char *restrict path, struct statvfs64 *restrict found) {
    REAL(statvfs64);
    int outcome = real(path, found);
    if (outcome == 0 && faults->write_errno == ENOSPC && path_affected(path)) found->f_bavail = found->f_bfree = 0;
    return outcome;
}

static void take_long(int fd) {
    int64_t delay_ms = faults->sync_delay_ms;
    if (delay_ms > 0 && fd_affected(fd)) usleep((useconds_t)delay_ms * 1000);
}

int fsync(int fd) {
    REAL(fsync);
    take_long(fd);
    return refuses_bytes(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    take_long(fd);
    return refuses_bytes(fd) ? -1 : real(fd);
}

int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    REAL(sync_file_range);
    take_long(fd);
    return real(fd, at, length, flags);
}

// The wall clock.

#define SECOND INT64_C(1000000000)

static int64_t as_ns(const struct timespec *time) {
    return (int64_t)time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec of_ns(int64_t ns) {
    struct timespec time = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
    return time;
}

static int true_clock(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(clock, time);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = true_clock(clock, time);
    if (outcome == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        *time = of_ns(as_ns(time) + faults->clock_offset_ns);
    }
    return outcome;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int outcome = clock_gettime(CLOCK_REALTIME, &now);
    if (outcome == 0) {
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return outcome;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into != NULL) *into = now.tv_sec;
    return now.tv_sec;
}

// A wait until a point of the wall clock ends when the moved clock gets there, as it would with the machine's clock: it is
// cut into slices, because the clock may be moved while it lasts. Points before this one are the monotonic clock's.
#define WALL_CLOCK_POINTS (INT64_C(1000000000) * SECOND)
#define SLICE (SECOND / 20)

// The next slice of a wait until `until`; answers how much is left, in ns.
static int64_t next_slice(const struct timespec *until, struct timespec *wake) {
    struct timespec now;
    true_clock(CLOCK_REALTIME, &now);
    int64_t left = as_ns(until) - (as_ns(&now) + faults->clock_offset_ns);
    *wake = of_ns(as_ns(&now) + (left < 0 ? 0 : left < SLICE ? left : SLICE));
    return left;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_timedwait) real;
    // An older one of the same name is there, too.
    if (real == NULL) real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (real == NULL) real = (__typeof__(real))dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (as_ns(until) < WALL_CLOCK_POINTS) return real(condition, mutex, until);
    for (;;) {
        struct timespec wake;
        int64_t left = next_slice(until, &wake);
        int outcome = real(condition, mutex, &wake);
        if (outcome != ETIMEDOUT || left <= SLICE) return outcome;
    }
}

// librdkafka waits with C11's.
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    REAL(cnd_timedwait);
    for (;;) {
        struct timespec wake;
        int64_t left = next_slice(until, &wake);
        int outcome = real(condition, mutex, &wake);
        if (outcome != thrd_timedout || left <= SLICE) return outcome;
    }
}

int timespec_get(struct timespec *time, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, time) == 0 ? base : 0;
}
