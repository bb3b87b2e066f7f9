/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * kelpie-monitor: owns exactly one VM. Its parts, each with a file of its own, live in one
 * structure; they know each other through the functions of their headers. There is one thread and
 * one loop; nothing in it waits.
 */
#ifndef KELPIE_MONITOR_MONITOR_H
#define KELPIE_MONITOR_MONITOR_H

#include "core/config.h"
#include "core/error.h"
#include "core/loop.h"
#include "monitor/capture.h"
#include "monitor/client.h"
#include "monitor/console_log.h"
#include "monitor/event_log.h"
#include "monitor/exec_relay.h"
#include "monitor/guest.h"
#include "monitor/lifecycle.h"
#include "monitor/member.h"
#include "monitor/options.h"
#include "monitor/pause.h"
#include "monitor/prepare.h"
#include "monitor/restore.h"
#include "monitor/stages.h"
#include "monitor/template.h"
#include "monitor/waiting.h"
#include "store/vm_directory.h"

struct kelpie_monitor {
    struct kelpie_os *os;     /* borrowed: until the process ends */
    struct kelpie_loop *loop; /* owned */
    struct kelpie_monitor_options options;
    struct kelpie_places places;          /* of its two directories only */
    struct kelpie_vm_directory directory; /* with the VM's lock */
    struct kelpie_os_identity identity;
    struct kelpie_clients clients;
    struct kelpie_lifecycle lifecycle;
    struct kelpie_pause pause;
    struct kelpie_capture capture;
    struct kelpie_restore restore;
    struct kelpie_waiting waiting;
    struct kelpie_template template;
    enum kelpie_vmm_backend backend; /* of this start */
    struct kelpie_prepare prepare;
    struct kelpie_guest guest;
    struct kelpie_relay relay;
    struct kelpie_relay_spares spares;
    struct kelpie_console_log console;
    struct kelpie_event_log events;
    struct kelpie_member member;
    struct kelpie_stage_times stages; /* of the last start */
    int owner;                        /* handle of a process, owned while is_owner_watched */
    uint32_t owner_watch;
    bool is_owner_watched;
    bool is_deleted; /* the VM's directory is gone, or is to go when the monitor ends */
    /* Last, for it is not cleared with what is above: reading it sets what has to be set. */
    struct kelpie_config_values config;
};

/* Deletes the VM's directory and answers, perhaps a moment later; the monitor then ends. */
void kelpie__monitor_delete(struct kelpie_monitor *monitor, struct kelpie_reply *reply);

/* From here on the VM lives and dies with this process, whose handle is taken. */
KELPIE_MUST_CHECK int kelpie__monitor_set_owner(struct kelpie_monitor *monitor, int owner,
                                                struct kelpie_error *error);
/* It has no such owner any more. */
void kelpie__monitor_drop_owner(struct kelpie_monitor *monitor);

/* The program: arguments and inherited handles as docs/architecture.md says. Gives the process's
 * exit code. */
int kelpie_monitor_main(struct kelpie_os *os, int argc, char **argv);

#endif
