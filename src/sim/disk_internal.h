/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The inside of the simulated file system, shared by disk*.c only. Everything lies in the machine's
 * heap. Each inode has two sides: what processes see, and what the medium holds; the operations
 * that lead from the second to the first are pending (disk_pending.c) until they are synced, grow
 * old, or are lost in a crash (disk_crash.c). Pages are shared by both sides and copied when
 * written.
 */
#ifndef KELPIE_SIM_DISK_INTERNAL_H
#define KELPIE_SIM_DISK_INTERNAL_H

#include "sim/disk.h"
#include "sim/heap.h"

#define SIM_PAGE_BYTES 4096u
#define SIM_CHUNK_PAGES 16u
#define SIM_FILE_NAME_BYTES_MAX 255u
#define SIM_LINKS_FOLLOWED_MAX 40u
#define SIM_FILE_BYTES_MAX ((uint64_t)1 << 44) /* of ext4 with 4 KiB blocks */
#define SIM_UMASK 022u

/* ---- pages (disk_pages.c) -------------------------------------------------------------------- */

/* A page's content; what is beyond `capacity` is zero. Written in place only by a single owner. */
struct sim_buffer {
    uint32_t references;
    uint32_t capacity; /* at most SIM_PAGE_BYTES */
    uint8_t bytes[];
};

struct sim_chunk {
    struct sim_buffer *pages[SIM_CHUNK_PAGES];
};

struct sim_chunk_slot {
    uint64_t index;
    struct sim_chunk *chunk;
};

/* A sparse array. Page 0 stands alone: most files have no other. */
struct sim_pages {
    struct sim_buffer *first;
    struct sim_chunk_slot *slots; /* sorted by index */
    uint32_t slot_count;
    uint32_t slot_capacity;
    uint64_t count; /* pages that are there */
};

struct sim_buffer *kelpie__sim_pages_get(const struct sim_pages *pages, uint64_t index);
/* Takes a reference to `buffer` (NULL: the page becomes a hole). False: no memory. */
bool kelpie__sim_pages_set(struct sim_heap *heap, struct sim_pages *pages, uint64_t index,
                           struct sim_buffer *buffer);
/* The page, made or copied if need be, with room for bytes up to `end`, for its only owner, who is
 * about to write all from `from` to there. NULL: no memory. */
struct sim_buffer *kelpie__sim_pages_own(struct sim_heap *heap, struct sim_pages *pages,
                                         uint64_t index, uint32_t from, uint32_t end);
/* Drops the pages from `index` on. */
void kelpie__sim_pages_cut(struct sim_heap *heap, struct sim_pages *pages, uint64_t index);
/* The first page at or after `index` that is there; UINT64_MAX: none. */
uint64_t kelpie__sim_pages_next(const struct sim_pages *pages, uint64_t index);
/* `to` becomes what `from` is, by sharing. */
void kelpie__sim_pages_copy(struct sim_heap *heap, struct sim_pages *to,
                            const struct sim_pages *from);
/* Cuts at a size in bytes, and zeroes the rest of the last page. False: no memory for the copy of
 * that page. */
bool kelpie__sim_pages_trim(struct sim_heap *heap, struct sim_pages *pages, uint64_t size);
void kelpie__sim_pages_read(const struct sim_pages *pages, void *out, size_t count,
                            uint64_t offset);
void kelpie__sim_buffer_unref(struct sim_heap *heap, struct sim_buffer *buffer);

/* ---- names (disk_table.c) -------------------------------------------------------------------- */

struct sim_name {
    uint32_t references;
    uint32_t length;
    uint64_t hash; /* never 0; its order is the directory's */
    char text[];
};

struct sim_slot {
    uint64_t hash;
    struct sim_name *name;
    struct sim_inode *inode;
};

/* A directory's entries, sorted by hash. */
struct sim_table {
    struct sim_slot *slots;
    uint32_t count;
    uint32_t capacity;
};

#define SIM_HASH_BITS 62u /* above: pids in /proc */

uint64_t kelpie__sim_name_hash(uint64_t seed, const char *text, size_t length);
struct sim_name *kelpie__sim_name_create(struct sim_disk *disk, const char *text, size_t length);
void kelpie__sim_name_unref(struct sim_disk *disk, struct sim_name *name);
/* The first slot whose hash is at least that; count: none. */
uint32_t kelpie__sim_table_at(const struct sim_table *table, uint64_t hash);
struct sim_inode *kelpie__sim_table_get(const struct sim_table *table, uint64_t hash);
/* Adds or replaces; takes references to both. False: no memory. */
bool kelpie__sim_table_set(struct sim_disk *disk, struct sim_table *table, struct sim_name *name,
                           struct sim_inode *inode);
/* Drops the references. */
void kelpie__sim_table_remove(struct sim_disk *disk, struct sim_table *table, uint64_t hash);
void kelpie__sim_table_clear(struct sim_disk *disk, struct sim_table *table);
/* Never fails a crash: asserts memory. */
void kelpie__sim_table_copy(struct sim_disk *disk, struct sim_table *to,
                            const struct sim_table *from);

/* Of the component that a path begins with, and of the slashes at its start: most are short. */
static inline size_t kelpie__sim_component_length(const char *path) {
    size_t length = 0;
    while (path[length] != '/' && path[length] != '\0') { /* bound: the path */
        length += 1;
    }
    return length;
}

static inline size_t kelpie__sim_slashes_length(const char *path) {
    size_t length = 0;
    while (path[length] == '/') { /* bound: the path */
        length += 1;
    }
    return length;
}

/* ---- pending operations (disk_pending.c) ----------------------------------------------------- */

enum sim_pending_type {
    SIM_PENDING_DATA, /* part of one page */
    SIM_PENDING_SIZE,
    SIM_PENDING_ADD, /* a name in a directory */
    SIM_PENDING_REMOVE,
    SIM_PENDING_RENAME, /* both at once */
};

struct sim_pending {
    struct sim_pending *next; /* of the disk, in order of sequence */
    struct sim_pending *previous;
    struct sim_pending *list_next; /* of its list, likewise */
    struct sim_pending_list *list;
    uint64_t sequence;
    int64_t time_ns;
    enum sim_pending_type type;
    bool is_shrink;   /* of a size */
    bool is_replacer; /* of a rename */
    bool is_across;   /* of a rename, or of its last step: two directories */
    uint32_t offset;  /* of data, in its page */
    uint32_t count;
    uint32_t index;          /* while a crash is worked out */
    struct sim_inode *inode; /* owned, as the other pointers below */
    struct sim_inode *directory;
    struct sim_name *name;
    struct sim_inode *to_directory; /* of a rename */
    struct sim_name *to_name;
    uint64_t partner; /* the sequence of the other step that must come before this one; 0: none */
    uint64_t page;
    uint64_t size;
    struct sim_buffer *buffer; /* the whole page after this write; NULL: the bytes below */
    uint8_t bytes[];
};

struct sim_pending_list {
    struct sim_pending *first;
    struct sim_pending *last;
};

/* ---- inodes (disk_inode.c) ------------------------------------------------------------------- */

enum sim_mount_kind {
    SIM_MOUNT_DISK,
    SIM_MOUNT_TMPFS,
    SIM_MOUNT_SYNTHETIC,
    SIM_MOUNT_MEMORY, /* files without a name */
};

struct sim_mount {
    struct sim_disk *disk;
    struct sim_mount *next;
    enum sim_mount_kind kind;
    uint64_t device;
    uint64_t capacity_bytes;
    uint64_t used_bytes;
    bool is_read_only;
};

/* What stands behind a node that is no file. */
struct sim_node {
    sim_synthetic content;
    sim_synthetic_write write;
    sim_device_open device;
    sim_directory_hook hook;
};

struct sim_file;

struct sim_inode {
    struct sim_mount *mount;
    struct sim_inode *next; /* of the disk, or of what is laid aside */
    struct sim_inode *previous;
    uint64_t number;
    enum kelpie_os_kind kind;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t references; /* of memory: slots, pending operations, open files, children */
    uint32_t links;      /* names that processes see */
    uint32_t opens;      /* open files */
    bool is_evicted;     /* nobody can reach it any more: its pages are gone */
    bool is_permanent;   /* put there by whoever laid out the machine, also outside the disk */
    bool is_reached;     /* while a crash is worked out */
    bool has_lost;       /* a sync that lied left pages that no longer agree with the medium */
    bool is_mount_root;
    struct sim_inode *parent; /* owned: the directory of the last name given */
    struct sim_name *name;    /* owned; NULL: root, or removed */
    int64_t modified_ns;
    int64_t changed_ns;
    /* a file's; a link's target is its content */
    uint64_t size;
    uint64_t durable_size;
    struct sim_pages pages;
    struct sim_pages durable_pages;
    struct sim_file *lock_holders;
    bool is_lock_exclusive;
    /* a directory's */
    struct sim_table entries;
    struct sim_table durable_entries;
    struct sim_inode *wildcard; /* owned: the pattern's "*" below this one */
    struct sim_inode *pattern;  /* owned: the "*" that this one is an instance of */
    /* both */
    struct sim_pending_list pending;
    uint64_t journal_last; /* the last pending operation on a name of it or in it */
    uint64_t arrival_last; /* posix: the last directory that came from elsewhere; 0: none */
    struct sim_node node;
    uint64_t socket;
};

#define SIM_LAYOUT_PATH_BYTES 64u /* of a directory that is remembered while it is filled */

struct sim_disk {
    struct sim_machine *machine;
    struct sim_heap *heap;
    enum sim_disk_profile profile;
    bool has_durable;
    bool is_layout;     /* somebody lays it out: nothing is recorded */
    bool is_laying_out; /* he puts many things: between layout_begin and layout_end */
    /* where the last thing was put, while he does */
    struct sim_inode *layout_directory; /* borrowed; NULL: nowhere yet */
    size_t layout_length;
    char layout_path[SIM_LAYOUT_PATH_BYTES];
    uint64_t hash_seed;
    uint64_t inode_next;
    uint32_t generation; /* of crashes: older open files are void */
    struct sim_mount *mounts;
    struct sim_mount *main;
    struct sim_mount *synthetic;
    struct sim_mount *memory;
    struct sim_inode *root;
    struct sim_inode *inodes;
    struct sim_inode *garbage; /* without a reference */
    uint64_t inode_count;
    /* everything that is pending, in order */
    struct sim_pending *pending_first;
    struct sim_pending *pending_last;
    uint32_t pending_count;
    uint64_t sequence_last;
    struct sim_pending_list journal; /* ext4: the names' */
    char *scratch;                   /* of synthetic content; NULL: not needed yet */
    size_t scratch_bytes;
};

struct sim_mount *kelpie__sim_mount_create(struct sim_disk *disk, enum sim_mount_kind kind,
                                           uint64_t capacity_bytes);
/* One reference. NULL: no memory. */
struct sim_inode *kelpie__sim_inode_create(struct sim_mount *mount, enum kelpie_os_kind kind,
                                           uint32_t mode);
static inline void kelpie__sim_inode_ref(struct sim_inode *inode) {
    KELPIE_ASSERT(inode->references > 0 && inode->references < UINT32_MAX);
    inode->references += 1;
}

/* Nobody refers to it any more: collect frees it, at the end of the operation. */
void kelpie__sim_inode_lay_aside(struct sim_inode *inode);

/* Takes NULL. */
static inline void kelpie__sim_inode_unref(struct sim_inode *inode) {
    if (inode != NULL) {
        KELPIE_ASSERT(inode->references > 0);
        inode->references -= 1;
        if (inode->references == 0) {
            kelpie__sim_inode_lay_aside(inode);
        }
    }
}

void kelpie__sim_disk_collect(struct sim_disk *disk);
/* Its last name or its last open file is gone: without both, its space is free. */
void kelpie__sim_inode_release(struct sim_inode *inode);
void kelpie__sim_inode_touch(struct sim_inode *inode); /* modified now */
/* Whether changes of it are to reach a medium. */
bool kelpie__sim_inode_is_recorded(const struct sim_inode *inode);
/* Its absolute path. Gives the length; -ENOENT (removed), -ENAMETOOLONG. */
int kelpie__sim_inode_path(const struct sim_inode *inode, char *out, size_t capacity);
/* The same of a name in it. */
int kelpie__sim_inode_path_below(const struct sim_inode *directory, const char *name, size_t length,
                                 char *out, size_t capacity);
/* The inode behind a name, or NULL; a reference. `reader`: whom /proc/self is. */
struct sim_inode *kelpie__sim_inode_lookup(struct sim_inode *directory, const char *name,
                                           size_t length, const struct sim_process *reader);
/* The next name at or after a cursor, synthetic ones and pids included: 1, 0, -ENAMETOOLONG. */
int kelpie__sim_inode_list(struct sim_inode *directory, uint64_t *inout_cursor, char *out_name,
                           size_t capacity);
bool kelpie__sim_inode_is_empty(const struct sim_inode *directory);

/* Content, as write(2) and so on: bytes moved, -ENOSPC, -EFBIG. */
int64_t kelpie__sim_inode_write(struct sim_inode *inode, const void *bytes, size_t count,
                                uint64_t offset);
int64_t kelpie__sim_inode_read(struct sim_inode *inode, void *out, size_t count, uint64_t offset);
int kelpie__sim_inode_truncate(struct sim_inode *inode, uint64_t size);
int kelpie__sim_inode_clone(struct sim_inode *from, uint64_t from_offset, struct sim_inode *to,
                            uint64_t to_offset, uint64_t count);

/* Names, already allowed: the tables, and what is pending. Each gives 0 or -ENOSPC. */
int kelpie__sim_inode_add(struct sim_inode *directory, const char *name, size_t length,
                          struct sim_inode *inode);
void kelpie__sim_inode_remove(struct sim_inode *directory, uint64_t hash);
int kelpie__sim_inode_rename(struct sim_inode *from, uint64_t from_hash, struct sim_inode *to,
                             const char *name, size_t length);

void kelpie__sim_pending_data(struct sim_inode *inode, uint64_t page, struct sim_buffer *buffer,
                              uint32_t offset, uint32_t count);
void kelpie__sim_pending_size(struct sim_inode *inode, uint64_t size, bool is_shrink);
void kelpie__sim_pending_add(struct sim_inode *directory, struct sim_name *name,
                             struct sim_inode *inode);
void kelpie__sim_pending_remove(struct sim_inode *directory, struct sim_name *name);
void kelpie__sim_pending_rename(struct sim_inode *from, struct sim_name *from_name,
                                struct sim_inode *to, struct sim_name *to_name,
                                struct sim_inode *inode, bool is_replacer);
/* fsync(2) of a file or directory. */
void kelpie__sim_pending_sync(struct sim_inode *inode);
/* An fsync that fails or lies: its pages count as clean, and never reach the medium. */
void kelpie__sim_pending_lose(struct sim_inode *inode);
void kelpie__sim_pending_sync_all(struct sim_disk *disk);
/* Whether fsync would have anything to do. */
bool kelpie__sim_pending_has(const struct sim_inode *inode);
/* For a crash: one operation reaches the medium; it is forgotten. */
void kelpie__sim_pending_apply(struct sim_pending *pending);
void kelpie__sim_pending_drop(struct sim_disk *disk, struct sim_pending *pending);

/* ---- paths (disk_walk.c) --------------------------------------------------------------------- */

enum sim_last {
    SIM_LAST_ROOT, /* "/" */
    SIM_LAST_NAME,
    SIM_LAST_DOT,
    SIM_LAST_DOT_DOT,
};

struct sim_walk {
    struct sim_process *process;
    struct sim_inode *directory; /* owned: of the last component */
    struct sim_inode *inode;     /* owned: NULL when the last component does not exist */
    const char *name;            /* the last component, in the path or in `buffer` */
    size_t name_length;
    enum sim_last last;
    bool has_slash; /* behind the last component */
    uint32_t links_followed;
    bool is_for_name; /* see kelpie__sim_walk_name */
    char buffer[SIM_PATH_BYTES_MAX];
};

/* 0, or why the path leads nowhere; a last component that does not exist is no error. Ended by
 * walk_end in both cases. */
int kelpie__sim_walk(struct sim_walk *walk, struct sim_process *process, int directory,
                     const char *path, bool does_follow);
/* For making, moving and removing names: the last component is a name, whatever stands there now. A
 * slash behind it neither follows a link nor asks for a directory; has_slash tells of it. */
int kelpie__sim_walk_name(struct sim_walk *walk, struct sim_process *process, int directory,
                          const char *path, bool does_follow);
/* The same of an absolute path, with all rights. */
int kelpie__sim_walk_disk(struct sim_walk *walk, struct sim_disk *disk, const char *path,
                          bool does_follow);
void kelpie__sim_walk_end(struct sim_walk *walk);
/* bits: 4 read, 2 write, 1 search. 0 or -EACCES. */
int kelpie__sim_inode_permits(const struct sim_inode *inode, const struct sim_process *process,
                              uint32_t bits);

/* ---- open files (disk_file.c) ---------------------------------------------------------------- */

enum sim_lock {
    SIM_LOCK_NONE,
    SIM_LOCK_SHARED,
    SIM_LOCK_EXCLUSIVE,
};

struct sim_file {
    struct sim_object object;
    struct sim_inode *inode;     /* owned */
    struct sim_inode *directory; /* owned; of a synthetic file: where it was found */
    struct sim_name *name;       /* owned; likewise */
    uint32_t flags;              /* KELPIE_OS_OPEN_* */
    uint32_t generation;
    uint64_t position;
    enum sim_lock lock;
    int32_t lock_pid;
    struct sim_file *lock_next;
    char *content; /* of a synthetic file */
    size_t content_bytes;
    size_t content_length;
};

/* One reference; takes one to the inode. NULL: no memory. */
struct sim_file *kelpie__sim_file_create(struct sim_inode *inode, uint32_t flags);
/* The content is made: 0 or what it answers. */
int kelpie__sim_file_open_synthetic(struct sim_file *file, struct sim_process *process,
                                    struct sim_inode *directory, const char *name, size_t length);
/* The open file behind a handle: -EBADF, -EIO (void since a crash); *out NULL when the handle is
 * something else. */
int kelpie__sim_file_of(struct sim_process *process, int handle, struct sim_file **out);
int kelpie__sim_file_lock(struct sim_file *file, enum sim_lock lock, int32_t pid);

/* ---- what processes do with names (disk_name.c) ---------------------------------------------- */

/* Each as its namesake of os.h. */
int kelpie__sim_disk_open(struct sim_process *process, int directory, const char *path,
                          uint32_t flags, uint32_t mode);
int kelpie__sim_disk_mkdir(struct sim_process *process, int directory, const char *path,
                           uint32_t mode);
int kelpie__sim_disk_unlink(struct sim_process *process, int directory, const char *path,
                            bool is_directory);
int kelpie__sim_disk_rename(struct sim_process *process, int from_directory, const char *from,
                            int to_directory, const char *to, bool may_replace);
int kelpie__sim_disk_link(struct sim_process *process, int handle, int directory, const char *name);
int kelpie__sim_disk_real_path(struct sim_process *process, const char *path, char *out,
                               size_t capacity);
int kelpie__sim_disk_stat(struct sim_process *process, int directory, const char *path, bool follow,
                          struct kelpie_os_stat *out);
/* A symbolic link without a name, one reference. NULL: no memory. */
struct sim_inode *kelpie__sim_disk_create_link(struct sim_mount *mount, const char *target);

#endif
