/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * See hanging.h: a file system in user space (fuse(4)) that is one file, which is mounted over the
 * device, and never answers an open of it. Needs the right to mount.
 */
#define _GNU_SOURCE /* unshare */
#include "hanging.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/harness.h"

#define HANGING_REQUEST_BYTES (FUSE_MIN_READ_BUFFER + 4096)
#define HANGING_REQUESTS_MAX 100000

static struct hanging {
    pid_t server;
    char path[64];
} hanging;

static void hanging_answer(int fuse, const struct fuse_in_header *request, const void *bytes,
                           size_t count) {
    char answer[sizeof(struct fuse_out_header) + 256];
    const struct fuse_out_header header = {.len = (uint32_t)(sizeof(header) + count),
                                           .unique = request->unique};
    memcpy(answer, &header, sizeof(header));
    memcpy(answer + sizeof(header), bytes, count);
    if (write(fuse, answer, header.len) != (ssize_t)header.len) {
        _exit(1);
    }
}

static void hanging_serve(int fuse) {
    static _Alignas(struct fuse_in_header) char request[HANGING_REQUEST_BYTES];
    const struct fuse_in_header *header = (const void *)request;
    const struct fuse_init_out init = {
        .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
    const struct fuse_attr_out attributes = {
        .attr_valid = 3600, .attr = {.ino = 1, .mode = S_IFREG | 0666, .nlink = 1}};
    for (int i = 0; i < HANGING_REQUESTS_MAX; i += 1) {
        if (read(fuse, request, sizeof(request)) < (ssize_t)sizeof(*header)) {
            return; /* unmounted */
        }
        if (header->opcode == FUSE_INIT) {
            hanging_answer(fuse, header, &init, sizeof(init));
        } else if (header->opcode == FUSE_GETATTR) {
            hanging_answer(fuse, header, &attributes, sizeof(attributes));
        } /* all else, and an open above all, waits for ever */
    }
}

void hanging_device_begin(const char *path) {
    char options[128];
    HARNESS_CHECK(unshare(CLONE_NEWNS) == 0, "a mount namespace of its own");
    HARNESS_CHECK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "a private one");
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    HARNESS_CHECK(fuse >= 0, "open /dev/fuse");
    snprintf(options, sizeof(options), "fd=%d,rootmode=100666,user_id=0,group_id=0,allow_other",
             fuse);
    HARNESS_CHECK(mount("hanging", path, "fuse", 0, options) == 0, "mount over %s", path);
    snprintf(hanging.path, sizeof(hanging.path), "%s", path);
    hanging.server = fork();
    HARNESS_CHECK(hanging.server >= 0, "fork");
    if (hanging.server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        hanging_serve(fuse);
        _exit(0);
    }
    close(fuse);
}

/* The last descriptor of the connection ends it: whoever waits gets an error. */
void hanging_device_end(void) {
    kill(hanging.server, SIGKILL);
    HARNESS_CHECK(waitpid(hanging.server, NULL, 0) == hanging.server, "the server ends");
    HARNESS_CHECK(umount2(hanging.path, MNT_DETACH) == 0, "unmount %s", hanging.path);
}
