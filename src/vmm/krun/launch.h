/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What passes between the driver and kelpie-krun, the process that becomes the VM: descriptors,
 * exit codes, and lines on the status descriptor. The name of each call of libkrun is told before
 * it is made, so that one that panics, hangs or is killed is known by name; and so are the steps
 * that are not libkrun's, by the call that each is for:
 *
 *     call NAME        about to be made: krun_..., dlopen, landlock_restrict_self, seccomp
 *     error TEXT       why it gives up
 *     missing TEXT     why it gives up: what the host lacks
 *     start            the last line of a launch that went well
 *     returned ERRNO   krun_start_enter came back
 */
#ifndef KELPIE_VMM_KRUN_LAUNCH_H
#define KELPIE_VMM_KRUN_LAUNCH_H

/* What is inherited above the standard descriptors. */
enum kelpie_krun_descriptor {
    KELPIE_KRUN_STATUS = 3,
    KELPIE_KRUN_CONSOLE = 4,   /* the write end of a pipe */
    KELPIE_KRUN_DIRECTORY = 5, /* has the socket that the agent's port leads to */
    KELPIE_KRUN_DESCRIPTOR_COUNT,
};

enum kelpie_krun_exit {
    KELPIE_KRUN_FAILED = 119,   /* before the VM was started; an error line says why */
    KELPIE_KRUN_RETURNED = 120, /* krun_start_enter came back */
};

#define KELPIE_KRUN_DISK_COUNT_MAX 4u
#define KELPIE_KRUN_SHARE_COUNT_MAX 16u
#define KELPIE_KRUN_LINE_BYTES_MAX 512u
#define KELPIE_KRUN_SOCKET_NAME "agent.sock"

#endif
