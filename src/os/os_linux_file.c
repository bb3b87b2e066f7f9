/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The real system: files and directories, relative to directory handles, and another process's
 * memory.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "os/os_linux.h"

/* of the page map's entries; checked against the system's where it is used */
#define LINUX_PAGE_BYTES 4096u
#define PAGE_MAP_PRESENT (UINT64_C(1) << 63)
#define PAGE_MAP_SWAPPED (UINT64_C(1) << 62)
#define PAGE_MAP_FILE (UINT64_C(1) << 61)
#define PAGE_MAP_READ_PAGES 2048u /* whole bytes of the answer */

static_assert(PAGE_MAP_READ_PAGES % 8u == 0, "a part of the answer ends with a byte");
static_assert(sizeof(off_t) == 8, "files of more than 2 GiB");

/* getdents64(2); glibc has no public structure for it. */
struct linux_entry {
    uint64_t inode;
    int64_t next;
    uint16_t length;
    uint8_t type;
    char name[];
};

static int open_flags(uint32_t flags) {
    bool reads = (flags & KELPIE_OS_OPEN_READ) != 0;
    bool writes = (flags & KELPIE_OS_OPEN_WRITE) != 0;
    int result = O_CLOEXEC | O_NOCTTY | (reads && writes ? O_RDWR : writes ? O_WRONLY : O_RDONLY);
    KELPIE_ASSERT((flags & (KELPIE_OS_OPEN_READ | KELPIE_OS_OPEN_WRITE)) != 0);
    KELPIE_ASSERT((flags & KELPIE_OS_OPEN_EXCLUSIVE) == 0 || (flags & KELPIE_OS_OPEN_CREATE) != 0);
    result |= (flags & KELPIE_OS_OPEN_CREATE) != 0 ? O_CREAT : 0;
    result |= (flags & KELPIE_OS_OPEN_EXCLUSIVE) != 0 ? O_EXCL : 0;
    result |= (flags & KELPIE_OS_OPEN_TRUNCATE) != 0 ? O_TRUNC : 0;
    result |= (flags & KELPIE_OS_OPEN_APPEND) != 0 ? O_APPEND : 0;
    result |= (flags & KELPIE_OS_OPEN_FOLLOW) != 0 ? 0 : O_NOFOLLOW;
    /* Non-blocking: a FIFO or a device in a file's place must not stop the loop. */
    result |= (flags & KELPIE_OS_OPEN_DIRECTORY) != 0 ? O_DIRECTORY : O_NONBLOCK;
    return result;
}

static int linux_open(struct kelpie_os *os, int directory, const char *path, uint32_t flags,
                      uint32_t mode) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(openat(directory, path, open_flags(flags), (mode_t)mode));
}

static int64_t linux_pread(struct kelpie_os *os, int file, void *out, size_t count,
                           uint64_t offset) {
    kelpie__ignore(os != NULL);
    ssize_t got = pread(file, out, count, (off_t)offset);
    return got < 0 ? -errno : got;
}

static int64_t linux_pwrite(struct kelpie_os *os, int file, const void *bytes, size_t count,
                            uint64_t offset) {
    kelpie__ignore(os != NULL);
    ssize_t written = pwrite(file, bytes, count, (off_t)offset);
    return written < 0 ? -errno : written;
}

static int linux_truncate(struct kelpie_os *os, int file, uint64_t size_bytes) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(ftruncate(file, (off_t)size_bytes));
}

static int linux_sync(struct kelpie_os *os, int file_or_directory) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(fsync(file_or_directory));
}

static int linux_rename(struct kelpie_os *os, int from_directory, const char *from,
                        int to_directory, const char *to, bool may_replace) {
    kelpie__ignore(os != NULL);
    unsigned flags = may_replace ? 0 : RENAME_NOREPLACE;
    return kelpie__os_linux_result(
        syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
}

static int linux_unlink(struct kelpie_os *os, int directory, const char *name, bool is_directory) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(unlinkat(directory, name, is_directory ? AT_REMOVEDIR : 0));
}

/* By the name that the kernel gives to an open file: AT_EMPTY_PATH would need a capability. */
static int linux_link(struct kelpie_os *os, int file, int directory, const char *name) {
    char path[64];
    KELPIE_ASSERT(file >= 0);
    kelpie__ignore(os != NULL);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    return kelpie__os_linux_result(linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW));
}

static int linux_mkdir(struct kelpie_os *os, int directory, const char *name, uint32_t mode) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(mkdirat(directory, name, (mode_t)mode));
}

/* One entry a call: the cursor is the directory's own position, so that it survives removals
 * between calls. */
static int linux_list(struct kelpie_os *os, int directory, uint64_t *inout_cursor, char *out_name,
                      size_t capacity) {
    KELPIE_ASSERT(capacity > 1);
    union {
        struct linux_entry entry;
        char bytes[1024];
    } buffer;
    uint64_t cursor = *inout_cursor;
    kelpie__ignore(os != NULL);
    for (unsigned budget = 4; budget > 0; budget -= 1) { /* "." and ".." are passed over */
        if (lseek(directory, (off_t)cursor, SEEK_SET) < 0) {
            return -errno;
        }
        long count = syscall(SYS_getdents64, directory, &buffer, sizeof(buffer));
        if (count <= 0) {
            return count < 0 ? -errno : 0;
        }
        KELPIE_ASSERT(buffer.entry.length <= (size_t)count);
        cursor = (uint64_t)buffer.entry.next;
        const char *name = buffer.entry.name;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            if (strlen(name) >= capacity) {
                return -ENAMETOOLONG;
            }
            memcpy(out_name, name, strlen(name) + 1);
            *inout_cursor = cursor;
            return 1;
        }
    }
    return -EIO; /* a directory with more than two dot entries */
}

static enum kelpie_os_kind stat_kind(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return KELPIE_OS_KIND_FILE;
    case S_IFDIR:
        return KELPIE_OS_KIND_DIRECTORY;
    case S_IFLNK:
        return KELPIE_OS_KIND_LINK;
    case S_IFSOCK:
        return KELPIE_OS_KIND_SOCKET;
    default:
        return KELPIE_OS_KIND_OTHER;
    }
}

static int64_t stat_ns(struct timespec time) {
    int64_t ns = 0; /* a file may have any time: what does not fit is the end of all times */
    bool is_over = __builtin_mul_overflow((int64_t)time.tv_sec, 1000000000, &ns) ||
                   __builtin_add_overflow(ns, (int64_t)time.tv_nsec, &ns);
    return !is_over ? ns : time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
}

static int linux_stat(struct kelpie_os *os, int directory, const char *path, bool follow,
                      struct kelpie_os_stat *out) {
    struct stat status;
    int flags = (follow ? 0 : AT_SYMLINK_NOFOLLOW) | (path[0] == '\0' ? AT_EMPTY_PATH : 0);
    kelpie__ignore(os != NULL);
    if (fstatat(directory, path, &status, flags) < 0) {
        return -errno;
    }
    if (status.st_size < 0 || status.st_blocks < 0) { /* as some server of files says */
        return -EOVERFLOW;
    }
    *out = (struct kelpie_os_stat){
        .kind = stat_kind(status.st_mode),
        .mode = status.st_mode & 07777,
        .uid = status.st_uid,
        .gid = status.st_gid,
        .device = status.st_dev,
        .inode = status.st_ino,
        .size_bytes = (uint64_t)status.st_size,
        .allocated_bytes = (uint64_t)status.st_blocks * 512,
        .modified_ns = stat_ns(status.st_mtim),
        .changed_ns = stat_ns(status.st_ctim),
    };
    KELPIE_ASSERT(out->size_bytes <= INT64_MAX);
    return 0;
}

static int linux_space(struct kelpie_os *os, int handle, struct kelpie_os_space *out) {
    struct statvfs status;
    kelpie__ignore(os != NULL);
    if (fstatvfs(handle, &status) < 0) {
        return -errno;
    }
    uint64_t available = (uint64_t)status.f_bavail * status.f_frsize;
    uint64_t total = (uint64_t)status.f_blocks * status.f_frsize;
    *out = (struct kelpie_os_space){available < total ? available : total, total,
                                    (status.f_flag & ST_RDONLY) != 0};
    KELPIE_ASSERT(out->available_bytes <= out->total_bytes);
    return 0;
}

static int linux_lock(struct kelpie_os *os, int file) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(flock(file, LOCK_EX | LOCK_NB));
}

static int linux_lock_shared(struct kelpie_os *os, int file) {
    kelpie__ignore(os != NULL);
    return kelpie__os_linux_result(flock(file, LOCK_SH | LOCK_NB));
}

/* Moves the file's position, which nothing of ours depends on: files are read by pread. */
static int linux_next_data(struct kelpie_os *os, int file, uint64_t offset, uint64_t *out_start,
                           uint64_t *out_end) {
    KELPIE_ASSERT(offset <= INT64_MAX);
    kelpie__ignore(os != NULL);
    off_t start = lseek(file, (off_t)offset, SEEK_DATA);
    if (start < 0) {
        return errno == ENXIO ? 0 : -errno;
    }
    off_t end = lseek(file, start, SEEK_HOLE);
    if (end <= start) { /* cut off meanwhile */
        return end < 0 && errno != ENXIO ? -errno : 0;
    }
    *out_start = (uint64_t)start;
    *out_end = (uint64_t)end;
    KELPIE_ASSERT(*out_end > *out_start);
    return 1;
}

static int linux_clone_range(struct kelpie_os *os, int from, uint64_t from_offset, int to,
                             uint64_t to_offset, uint64_t count) {
    struct file_clone_range range = {from, from_offset, count, to_offset};
    off_t from_at = (off_t)from_offset;
    off_t to_at = (off_t)to_offset;
    KELPIE_ASSERT(from >= 0);
    KELPIE_ASSERT(to >= 0);
    KELPIE_ASSERT(count <= INT64_MAX);
    kelpie__ignore(os != NULL);
    if (ioctl(to, FICLONERANGE, &range) == 0) {
        return 0;
    }
    for (uint64_t left = count; left > 0;) { /* every turn copies a byte at least */
        ssize_t copied = copy_file_range(from, &from_at, to, &to_at, (size_t)left, 0);
        if (copied <= 0) {
            return copied < 0 ? -errno : -EIO;
        }
        left -= (uint64_t)copied;
    }
    return 0;
}

static int linux_memory_file(struct kelpie_os *os, const char *name, uint64_t size_bytes) {
    KELPIE_ASSERT(name[0] != '\0');
    kelpie__ignore(os != NULL);
    int file = memfd_create(name, MFD_CLOEXEC);
    if (file < 0) {
        return -errno;
    }
    if (ftruncate(file, (off_t)size_bytes) < 0) {
        int status = -errno;
        close(file);
        return status;
    }
    return file;
}

/* One read's part of the map. */
static int page_map_part(int file, uint64_t page, uint8_t *out_bits, size_t page_count) {
    uint64_t entries[PAGE_MAP_READ_PAGES];
    size_t wanted = page_count * sizeof(entries[0]);
    KELPIE_ASSERT(page_count > 0);
    KELPIE_ASSERT(page_count <= PAGE_MAP_READ_PAGES);
    ssize_t got = pread(file, entries, wanted, (off_t)(page * sizeof(entries[0])));
    if (got < 0 || (size_t)got != wanted) {
        return got < 0 ? -errno : -EFAULT;
    }
    for (size_t i = 0; i < page_count; i += 1) {
        bool is_own = (entries[i] & (PAGE_MAP_PRESENT | PAGE_MAP_SWAPPED)) != 0 &&
                      (entries[i] & PAGE_MAP_FILE) == 0;
        out_bits[i / 8] = (uint8_t)(out_bits[i / 8] | (is_own ? 1u << i % 8 : 0u));
    }
    return 0;
}

/* Documentation/admin-guide/mm/pagemap.rst: 64 bits a page. A page is the process's own when it is
 * present or swapped, and not a page of a file: that holds for anonymous memory and for a private
 * mapping of a file, whose untouched pages are the file's. */
static int linux_page_map(struct kelpie_os *os, int32_t pid, uint64_t address, uint8_t *out_bits,
                          size_t page_count) {
    char path[64];
    KELPIE_ASSERT(pid > 0);
    KELPIE_ASSERT(page_count > 0);
    kelpie__ignore(os != NULL);
    KELPIE_ASSERT(address % LINUX_PAGE_BYTES == 0);
    if (sysconf(_SC_PAGESIZE) != LINUX_PAGE_BYTES) {
        return -EOPNOTSUPP;
    }
    snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return -errno;
    }
    int status = 0;
    memset(out_bits, 0, (page_count + 7) / 8);
    for (size_t done = 0; done < page_count && status == 0; done += PAGE_MAP_READ_PAGES) {
        size_t left = page_count - done;
        status = page_map_part(file, address / LINUX_PAGE_BYTES + done, out_bits + done / 8,
                               left < PAGE_MAP_READ_PAGES ? left : PAGE_MAP_READ_PAGES);
    }
    close(file);
    return status;
}

static int64_t linux_read_memory(struct kelpie_os *os, int32_t pid, uint64_t address, void *out,
                                 size_t count) {
    struct iovec local = {.iov_base = out, .iov_len = count};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)address, .iov_len = count};
    kelpie__ignore(os != NULL);
    ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    return got < 0 ? -errno : got;
}

static int64_t linux_write_memory(struct kelpie_os *os, int32_t pid, uint64_t address,
                                  const void *bytes, size_t count) {
    struct iovec local = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)address, .iov_len = count};
    kelpie__ignore(os != NULL);
    ssize_t written = process_vm_writev(pid, &local, 1, &remote, 1, 0);
    return written < 0 ? -errno : written;
}

void kelpie__os_linux_fill_file(struct kelpie_os *os) {
    os->open = linux_open;
    os->pread = linux_pread;
    os->pwrite = linux_pwrite;
    os->truncate = linux_truncate;
    os->sync = linux_sync;
    os->rename = linux_rename;
    os->unlink = linux_unlink;
    os->link = linux_link;
    os->mkdir = linux_mkdir;
    os->list = linux_list;
    os->stat = linux_stat;
    os->space = linux_space;
    os->lock = linux_lock;
    os->lock_shared = linux_lock_shared;
    os->clone_range = linux_clone_range;
    os->next_data = linux_next_data;
    os->memory_file = linux_memory_file;
    os->page_map = linux_page_map;
    os->read_memory = linux_read_memory;
    os->write_memory = linux_write_memory;
}
