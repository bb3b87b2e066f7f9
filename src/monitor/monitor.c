/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The monitor's own life: takes what it was given (lock, listener, first connection, owner), serves
 * until nothing lives and nobody is connected, and leaves nothing behind.
 */
#include "monitor/monitor.h"

#include <string.h>

#include "core/text.h"
#include "monitor/worker.h"
#include "os/os_call.h"
#include "os/os_mark.h"
#include "wire/wire.h"

#define MONITOR_HANDLE_MAX (KELPIE_CLIENT_COUNT_MAX + 32u)
#define MONITOR_STDERR 2

/* ---- deletion -------------------------------------------------------------------------------- */

static_assert(KELPIE_MONITOR_HANDLE_LOCK == MONITOR_STDERR + 1, "as kelpie__os_spawn passes them");

void kelpie__monitor_delete(struct kelpie_monitor *monitor, struct kelpie_reply *reply) {
    struct kelpie_error error = {0};
    KELPIE_ASSERT(!kelpie__state_is_live(monitor->lifecycle.state));
    KELPIE_ASSERT(!monitor->is_deleted);
    KELPIE_ASSERT(monitor->lifecycle.vmm == NULL);
    if (kelpie__template_holds_delete(&monitor->template, reply)) {
        return;
    }
    kelpie__ignore(kelpie__fail(&error, KELPIE_E_STATE, 0, "VM \"%s\" is being deleted",
                                monitor->config.name));
    /* Their files are of this VM's directory. */
    kelpie__capture_abort(&monitor->capture, &error);
    kelpie__capture_abort(&monitor->template.capture, &error);
    if (kelpie__vm_directory_delete(&monitor->directory, &error) < 0) {
        KELPIE_REACHED(monitor->os, "a VM could not be deleted");
        monitor->lifecycle.is_deleting = false;
        kelpie__reply_refuse(monitor, reply, &error);
        return;
    }
    monitor->is_deleted = true;
    kelpie__lifecycle_settle(&monitor->lifecycle);
    KELPIE_ASSERT(!monitor->lifecycle.is_unsaved);
    kelpie__reply_result(monitor, reply, "{}");
}

/* ---- the owner ------------------------------------------------------------------------------- */

void kelpie__monitor_drop_owner(struct kelpie_monitor *monitor) {
    if (monitor->is_owner_watched) {
        KELPIE_ASSERT(monitor->owner >= 0);
        kelpie__loop_unwatch(monitor->loop, monitor->owner_watch);
        kelpie__ignore(kelpie__os_close(monitor->os, monitor->owner));
        monitor->is_owner_watched = false;
    }
}

static void monitor_owner_ended(void *context, uint32_t bits) {
    struct kelpie_monitor *monitor = context;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(monitor->is_owner_watched);
    kelpie__monitor_drop_owner(monitor);
    KELPIE_REACHED(monitor->os, "the process of an owner ended");
    kelpie__lifecycle_owner_gone(monitor, "the process of its owner ended");
}

int kelpie__monitor_set_owner(struct kelpie_monitor *monitor, int owner,
                              struct kelpie_error *error) {
    KELPIE_ASSERT(!monitor->is_owner_watched);
    KELPIE_ASSERT(owner >= 0);
    int status = kelpie__loop_watch(monitor->loop, owner, KELPIE_OS_READABLE, monitor_owner_ended,
                                    monitor, &monitor->owner_watch);
    if (status < 0) {
        return kelpie__fail(error, status, 0, "watch the owner");
    }
    monitor->owner = owner;
    monitor->is_owner_watched = true;
    return 0;
}

static int monitor_watch_owner(struct kelpie_monitor *monitor, struct kelpie_error *error) {
    return monitor->config.lifetime == KELPIE_LIFETIME_OWNED
               ? kelpie__monitor_set_owner(monitor, KELPIE_MONITOR_HANDLE_OWNER, error)
               : 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int monitor_open(struct kelpie_monitor *monitor, int argc, char **argv,
                        struct kelpie_error *error) {
    struct kelpie_os *os = monitor->os;
    KELPIE_ASSERT(monitor->loop == NULL);
    int status = kelpie__monitor_options_read(&monitor->options, argc, argv, error);
    if (status == 0) {
        status = kelpie__vm_directory_adopt(&monitor->directory, &monitor->places, os,
                                            monitor->options.vm_directory,
                                            monitor->options.run_directory, monitor->options.name,
                                            KELPIE_MONITOR_HANDLE_LOCK, error);
    }
    if (status == 0) {
        status = kelpie__vm_directory_config(&monitor->directory, &monitor->config, error);
    }
    if (status < 0) {
        return status;
    }
    int result = kelpie__os_identity(os, &monitor->identity);
    if (result < 0) {
        return kelpie__fail(error, KELPIE_E_IO, -result, "ask who this process is");
    }
    return kelpie__loop_create(os, MONITOR_HANDLE_MAX, &monitor->loop, error);
}

static int monitor_init(struct kelpie_monitor *monitor, struct kelpie_error *error) {
    struct kelpie_os *os = monitor->os;
    int directory = monitor->directory.vm;
    KELPIE_ASSERT(directory >= 0);
    KELPIE_ASSERT(monitor->loop != NULL);
    kelpie__guest_init(&monitor->guest, monitor, &monitor->relay);
    kelpie__relay_spares_init(&monitor->spares, os);
    kelpie__relay_init(&monitor->relay, monitor, &monitor->guest);
    kelpie__pause_init(&monitor->pause, monitor);
    kelpie__capture_init(&monitor->capture, monitor);
    kelpie__restore_init(&monitor->restore, monitor);
    kelpie__waiting_init(&monitor->waiting, monitor);
    kelpie__template_init(&monitor->template, monitor);
    kelpie__member_init(&monitor->member, monitor);
    int status = kelpie__lifecycle_init(&monitor->lifecycle, monitor, error);
    if (status == 0) {
        status = kelpie__event_log_open(&monitor->events, os, directory, error);
    }
    if (status == 0) {
        status = kelpie__console_log_open(&monitor->console, os, monitor->loop, directory, error);
    }
    if (status == 0) {
        status = monitor_watch_owner(monitor, error);
    }
    if (status == 0) {
        status = kelpie__clients_init(&monitor->clients, monitor, KELPIE_MONITOR_HANDLE_LISTENER,
                                      KELPIE_MONITOR_HANDLE_CONNECTION, error);
    }
    return status;
}

/* Whoever waits at the door is served first. Then the name goes: one who comes between the two is
 * cut off, finds the lock free and starts a monitor of its own; served by this one, it could start
 * a VM that nobody else would ever reach. */
static bool monitor_may_end(struct kelpie_monitor *monitor) {
    if (!kelpie__lifecycle_is_over(monitor)) {
        return false;
    }
    bool is_wanted_gone = monitor->is_deleted || monitor->lifecycle.is_ending;
    if (!is_wanted_gone) {
        kelpie__clients_accept(&monitor->clients);
        if (monitor->clients.count > 0) {
            KELPIE_REACHED(monitor->os, "a client came as its monitor was about to end");
            return false;
        }
    }
    KELPIE_ASSERT(!kelpie__state_is_live(monitor->lifecycle.state));
    KELPIE_ASSERT(is_wanted_gone || monitor->clients.count == 0);
    if (!monitor->is_deleted) {
        /* Whoever finds it without a monitor behind removes it too. */
        kelpie__ignore(
            kelpie__os_unlink(monitor->os, monitor->directory.run, KELPIE_VM_SOCKET_FILE, false));
    }
    return true;
}

static int monitor_run(struct kelpie_monitor *monitor, struct kelpie_error *error) {
    int status = 0;
    while (status == 0 && !monitor_may_end(monitor)) { /* bound: the VM's life */
        status = kelpie__loop_step(monitor->loop, -1, error);
    }
    return status;
}

/* One that ends because its loop has failed may have a guest that owes it answers. */
static void monitor_leave_guest(struct kelpie_monitor *monitor) {
    struct kelpie_error why = {0};
    if (monitor->guest.wire != NULL) {
        KELPIE_REACHED(monitor->os, "a monitor ended before its guest");
        kelpie__ignore(kelpie__fail(&why, KELPIE_E_CRASHED, 0, "the monitor ends"));
        monitor->guest.done = NULL; /* nothing is to go on from here */
        kelpie__guest_detach(&monitor->guest, &why);
        KELPIE_ASSERT(monitor->guest.phase == KELPIE_GUEST_NONE);
    }
}

static void monitor_end(struct kelpie_monitor *monitor) {
    bool is_leftover = monitor->config.is_ephemeral && !monitor->is_deleted;
    kelpie__prepare_cancel(&monitor->prepare);
    kelpie__restore_deinit(&monitor->restore);
    kelpie__waiting_deinit(&monitor->waiting);
    kelpie__capture_deinit(&monitor->capture);
    kelpie__template_deinit(&monitor->template);
    kelpie__clients_deinit(&monitor->clients, monitor->is_deleted ? "deleted" : "over");
    kelpie__member_deinit(&monitor->member);
    monitor_leave_guest(monitor);
    kelpie__relay_deinit(&monitor->relay);
    kelpie__relay_spares_deinit(&monitor->spares);
    kelpie__lifecycle_deinit(&monitor->lifecycle);
    kelpie__console_log_close(&monitor->console);
    kelpie__event_log_close(&monitor->events);
    if (is_leftover) { /* ephemeral: its end is its deletion */
        KELPIE_REACHED(monitor->os, "an ephemeral VM went with its monitor");
        kelpie__ignore(kelpie__vm_directory_delete(&monitor->directory, NULL));
    }
    KELPIE_ASSERT(monitor->clients.count == 0);
    KELPIE_ASSERT(monitor->lifecycle.vmm == NULL);
    kelpie__monitor_drop_owner(monitor);
    kelpie__loop_destroy(monitor->loop);
    /* The lock goes last: whoever takes it finds all done. */
    kelpie__vm_directory_close(&monitor->directory);
    kelpie__places_close(&monitor->places);
}

static void monitor_complain(struct kelpie_os *os, const struct kelpie_error *error) {
    char line[2200];
    kelpie__ignore(kelpie__text_format(line, sizeof(line), "kelpie-monitor: %s\n", error->message));
    /* nobody else to tell */
    kelpie__ignore(kelpie__os_write(os, MONITOR_STDERR, line, strlen(line)));
}

int kelpie_monitor_main(struct kelpie_os *os, int argc, char **argv) {
    struct kelpie_error error = {0};
    if (argc > 1 && kelpie__text_equal(argv[1], KELPIE_WORKER_OPTION)) {
        return kelpie__worker_main(os, argc, argv);
    }
    struct kelpie_monitor *monitor = kelpie__alloc_raw(os, sizeof(*monitor));
    if (monitor == NULL) {
        return 1;
    }
    memset(monitor, 0, offsetof(struct kelpie_monitor, config));
    monitor->os = os;
    int status = monitor_open(monitor, argc, argv, &error);
    if (status == 0) {
        status = monitor_init(monitor, &error);
        if (status == 0) {
            status = monitor_run(monitor, &error);
            monitor_end(monitor);
        }
    }
    kelpie__free(os, monitor, sizeof(*monitor));
    if (status < 0) {
        monitor_complain(os, &error); /* what a failed start leaves open, the kernel closes */
    }
    return status < 0 ? 1 : 0;
}
