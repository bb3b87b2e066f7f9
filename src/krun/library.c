/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * libkrun by name, never linked: one kelpie-krun works with a library that is absent, old or new.
 * Its second major version has another interface and another name, and is not looked for.
 */
#include <dlfcn.h>
#include <link.h>
#include <string.h>

#include "krun/krun.h"

#define LIBRARY_DYNAMIC_MAX 256u /* entries of a library's table; they have some thirty */
#define LIBRARY_FEATURE_BLK 1u   /* krun_has_feature */
#define LIBRARY_INSTALL                                                                            \
    "install libkrun 1.17.0 or newer with its libkrunfw 5, or use the backend qemu"

struct library_call {
    const char *name;
    size_t offset; /* in struct kelpie_krun_library */
    bool is_needed;
};

#define LIBRARY_CALL(member, is_needed_)                                                           \
    { "krun_" #member, offsetof(struct kelpie_krun_library, member), is_needed_ }

static const struct library_call library_calls[] = {
    LIBRARY_CALL(create_ctx, true),
    LIBRARY_CALL(init_log, true),
    LIBRARY_CALL(set_vm_config, true),
    LIBRARY_CALL(set_root, true),
    LIBRARY_CALL(set_exec, true),
    LIBRARY_CALL(add_virtiofs, true), /* without a DAX window; 2 makes one of no bytes, and fails */
    LIBRARY_CALL(set_console_output, true),
    LIBRARY_CALL(disable_implicit_vsock, true), /* 1.17: without it the guest reaches our network */
    LIBRARY_CALL(add_vsock, true),              /* 1.17 */
    LIBRARY_CALL(add_vsock_port2, true),
    LIBRARY_CALL(start_enter, true),
    LIBRARY_CALL(free_ctx, true),
    LIBRARY_CALL(add_disk2, false),             /* built with block devices */
    LIBRARY_CALL(add_virtiofs3, false),         /* 1.18: shares that the guest cannot write */
    LIBRARY_CALL(disable_implicit_init, false), /* 1.19: our agent without a host directory */
    LIBRARY_CALL(fs_add_overlay_file, false),
    LIBRARY_CALL(fs_add_overlay_dir, false),
    LIBRARY_CALL(has_feature, false), /* 1.17.3 */
    LIBRARY_CALL(get_max_vcpus, false),
    LIBRARY_CALL(set_kernel, false), /* 1.11, but not where it was built for confidential guests */
};

/* What a library calls itself (DT_SONAME, elf(5)), or "". glibc has made the table's pointers ready
 * for use by then, here as on all but two of its machines. */
static const char *library_name(void *handle) {
    struct link_map *map = NULL;
    const char *strings = NULL;
    ElfW(Xword) name = 0;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) {
        return "";
    }
    KELPIE_ASSERT(map != NULL);
    for (size_t i = 0; i < LIBRARY_DYNAMIC_MAX && map->l_ld[i].d_tag != DT_NULL; i += 1) {
        const ElfW(Dyn) *entry = &map->l_ld[i];
        if (entry->d_tag == DT_STRTAB) {
            strings = (const char *)entry->d_un.d_ptr;
        } else if (entry->d_tag == DT_SONAME) {
            name = entry->d_un.d_val;
        }
    }
    return strings != NULL && name != 0 ? strings + name : "";
}

/* By the name that the dynamic linker searches, or by path. A path may lead to another major
 * version, with calls of the same names: it is told by what the library calls itself. */
static void *library_open(const char *path, const char *wanted, const char *what) {
    KELPIE_ASSERT(wanted[0] != '\0');
    KELPIE_ASSERT(path[0] != '\0');
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        const char *reason = dlerror();
        kelpie__krun_tell_missing("%s cannot be loaded: %s; %s", what,
                                  reason != NULL ? reason : "no reason is known", LIBRARY_INSTALL);
        return NULL;
    }
    const char *name = library_name(handle);
    if (strcmp(name, wanted) != 0) {
        kelpie__krun_tell_missing("\"%s\" is \"%s\", not %s; %s", path, name, wanted,
                                  LIBRARY_INSTALL);
        return NULL;
    }
    return handle;
}

static bool library_resolve(void *handle, const struct library_call *call,
                            struct kelpie_krun_library *out) {
    void *symbol = dlsym(handle, call->name);
    KELPIE_ASSERT(call->offset + sizeof(symbol) <= sizeof(*out));
    if (symbol == NULL && call->is_needed) {
        kelpie__krun_tell_missing("this libkrun has no %s: it is older than 1.17.0; %s", call->name,
                                  LIBRARY_INSTALL);
        return false;
    }
    /* ISO C has no cast between the two kinds of pointer; POSIX says that they are of one size. */
    memcpy((char *)out + call->offset, &symbol, sizeof(symbol));
    return true;
}

bool kelpie__krun_library_load(const struct kelpie_krun_options *options,
                               struct kelpie_krun_library *out) {
    KELPIE_ASSERT(options->library != NULL && options->firmware != NULL);
    /* First, by its path: libkrun asks for it by name, and the linker then knows it already. */
    if (library_open(options->firmware, KELPIE_KRUN_FIRMWARE_NAME,
                     "libkrunfw, the guest's kernel,") == NULL) {
        return false;
    }
    void *handle = library_open(options->library, KELPIE_KRUN_LIBRARY_NAME, "libkrun");
    if (handle == NULL) {
        return false;
    }
    *out = (struct kelpie_krun_library){0};
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(library_calls); i += 1) {
        if (!library_resolve(handle, &library_calls[i], out)) {
            return false;
        }
    }
    KELPIE_ASSERT(out->start_enter != NULL);
    return true;
}

bool kelpie__krun_library_has_disks(const struct kelpie_krun_library *library) {
    if (library->add_disk2 == NULL) {
        return false;
    }
    if (library->has_feature == NULL) {
        return true; /* before 1.17.3 the call's being there is the answer */
    }
    KELPIE_ASSERT(library->create_ctx != NULL);
    return library->has_feature(LIBRARY_FEATURE_BLK) == 1;
}

void kelpie__krun_library_each_choice(const struct kelpie_krun_library *library,
                                      void (*callback)(bool is_there, const char *name)) {
    KELPIE_ASSERT(callback != NULL);
    for (size_t i = 0; i < KELPIE_ARRAY_COUNT(library_calls); i += 1) {
        const struct library_call *call = &library_calls[i];
        void *symbol = NULL;
        memcpy(&symbol, (const char *)library + call->offset, sizeof(symbol));
        KELPIE_ASSERT(!call->is_needed || symbol != NULL);
        if (!call->is_needed) {
            callback(symbol != NULL, call->name);
        }
    }
}
