/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The agent's way to us over a vsock device of the host's kernel (vhost), instead of a port of
 * QEMU's: the guest dials. Its address, the CID, is claimed of the kernel before QEMU is there, and
 * handed over with the device, so that no two guests of the host ever have the same. The state of
 * the device lies in the kernel, where no save finds it.
 */
#include <errno.h>

#include "os/os_call.h"
#include "vmm/qemu/instance.h"

#define CHANNEL_CID_FIRST 3u     /* vsock(7): what is below is the host's own */
#define CHANNEL_CID_TRIES_MAX 16 /* of 4 billion */

bool kelpie__qemu_channel_is_vsock(const struct kelpie_qemu *qemu) {
    KELPIE_ASSERT((qemu->channel.cid == 0) == (qemu->channel.port == 0));
    return qemu->channel.cid != 0;
}

/* A device that has an address of its own. */
static int channel_claim(struct kelpie_qemu *qemu, uint32_t *out_cid) {
    int device = -EADDRINUSE;
    for (int i = 0; i < CHANNEL_CID_TRIES_MAX && device == -EADDRINUSE; i += 1) {
        uint32_t cid = 0;
        int status = kelpie__os_random(qemu->os, &cid, sizeof(cid));
        if (status < 0) {
            return status;
        }
        bool is_good = cid >= CHANNEL_CID_FIRST && cid != UINT32_MAX; /* which means any */
        device = is_good ? kelpie__os_claim_guest(qemu->os, cid) : -EADDRINUSE;
        *out_cid = cid;
    }
    KELPIE_ASSERT(device < 0 || *out_cid >= CHANNEL_CID_FIRST);
    return device;
}

int kelpie__qemu_channel_make(struct kelpie_qemu *qemu, struct kelpie_error *error) {
    struct kelpie_qemu_channel *channel = &qemu->channel;
    uint32_t port = 0;
    uint32_t cid = 0;
    KELPIE_ASSERT(channel->listener == KELPIE_OS_NO_HANDLE);
    if (qemu->accel.accelerator != KELPIE_VMM_ACCELERATOR_KVM) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, 0,
                            "the channel vsock needs KVM (%s); use the channel serial",
                            qemu->accel.reason);
    }
    int device = channel_claim(qemu, &cid);
    if (device < 0) {
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -device,
                            "open /dev/vhost-vsock (load the module vhost_vsock, or use the "
                            "channel serial)");
    }
    int listener = kelpie__os_listen_guests(qemu->os, &port);
    if (listener < 0) {
        kelpie__ignore(kelpie__os_close(qemu->os, device)); /* never used */
        return kelpie__fail(error, KELPIE_E_UNAVAILABLE, -listener, "listen for the guest's vsock");
    }
    qemu->pending[KELPIE_QEMU_AGENT] = device;
    *channel = (struct kelpie_qemu_channel){.listener = listener, .cid = cid, .port = port};
    return 0;
}

void kelpie__qemu_channel_close(struct kelpie_qemu *qemu) {
    struct kelpie_qemu_channel *channel = &qemu->channel;
    if (channel->is_watched) {
        kelpie__loop_unwatch(qemu->loop, channel->watch);
        channel->is_watched = false;
    }
    if (channel->listener != KELPIE_OS_NO_HANDLE) {
        kelpie__ignore(kelpie__os_close(qemu->os, channel->listener)); /* it carried nothing */
        channel->listener = KELPIE_OS_NO_HANDLE;
    }
    KELPIE_ASSERT(!channel->is_watched);
}

static void channel_give_up(struct kelpie_qemu *qemu, int code, int error_number,
                            const char *what) {
    struct kelpie_error error = {0};
    kelpie__ignore(kelpie__fail(&error, code, error_number, "%s", what));
    KELPIE_ASSERT(error.code < 0);
    kelpie__qemu_give_up(qemu, &error, 0);
}

/* Every guest of the host can reach the port: who is not ours is not served. */
static void channel_dialled(void *context, uint32_t bits) {
    struct kelpie_qemu *qemu = context;
    uint32_t cid = 0;
    KELPIE_ASSERT(bits != 0);
    KELPIE_ASSERT(!qemu->vmm.has_agent);
    int stream = kelpie__os_accept(qemu->os, qemu->channel.listener);
    if (stream == -EAGAIN || stream == -EINTR || stream == -ECONNABORTED) {
        return; /* it was nobody, or comes again */
    }
    if (stream < 0) {
        channel_give_up(qemu, KELPIE_E_BOOT, -stream, "accept the guest's connection");
        return;
    }
    if (kelpie__os_guest_of(qemu->os, stream, &cid) < 0 || cid != qemu->channel.cid) {
        kelpie__ignore(kelpie__os_close(qemu->os, stream));
        return;
    }
    kelpie__os_label(qemu->os, stream, "agent");
    /* One connection for each boot, and the first is the agent's: nothing else runs there yet. */
    kelpie__qemu_channel_close(qemu);
    kelpie__vmm_emit(&qemu->vmm,
                     &(struct kelpie_vmm_event){.type = KELPIE_VMM_EVENT_AGENT, .agent = stream});
}

void kelpie__qemu_channel_open(struct kelpie_qemu *qemu) {
    struct kelpie_qemu_channel *channel = &qemu->channel;
    KELPIE_ASSERT(qemu->vmm.state == KELPIE_VMM_RUNNING);
    if (!kelpie__qemu_channel_is_vsock(qemu)) {
        return;
    }
    KELPIE_ASSERT(channel->listener != KELPIE_OS_NO_HANDLE && !channel->is_watched);
    int status = kelpie__loop_watch(qemu->loop, channel->listener, KELPIE_OS_READABLE,
                                    channel_dialled, qemu, &channel->watch);
    channel->is_watched = status == 0;
    if (status < 0) {
        channel_give_up(qemu, status, 0, "watch the guest's vsock");
    }
}
