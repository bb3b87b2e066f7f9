/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What model.c (bookkeeping) and model_step.c (the contract, as steps of a state) share.
 */
#ifndef KELPIE_SIM_MODEL_INTERNAL_H
#define KELPIE_SIM_MODEL_INTERNAL_H

#include "sim/history.h"
#include "sim/model.h"

#define SIM_MODEL_LINGER_MAX 12u
/* A history that never comes to rest is cut after so many calls. Calls that the cut goes through:
 * of those that change nothing, nothing more is asked; the others linger until they are answered.
 */
#define SIM_MODEL_PIECE_MAX 40u
#define SIM_MODEL_CONTENT_MAX 65536u
#define SIM_MODEL_LENT_MAX 8192u
#define SIM_MODEL_CONTENT_EMPTY 0u
#define SIM_MODEL_CONTENT_UNKNOWN 1u
#define SIM_MODEL_FILE_UNKNOWN UINT64_MAX

enum sim_model_flag {
    SIM_MODEL_EXISTS = 1,
    SIM_MODEL_DIRTY = 2,  /* its last guest did not end in order: what files hold is unknown */
    SIM_MODEL_VAGUE = 4,  /* its snapshots are unknown */
    SIM_MODEL_FROM = 8,   /* its first start will bring back `first` */
    SIM_MODEL_SHAKY = 16, /* made or deleted by a call without an answer: perhaps not on the disk */
    SIM_MODEL_BASED = 32, /* its guest was not booted: its memory lies over what was saved */
    SIM_MODEL_GOING = 64, /* its deletion was given up by who asked for it, and may go on */
};

/* Files as bits. What a guest that was saved in the midst of a write has of a file, nobody knows:
 * the write goes on in each guest that is made from it, whenever that comes to it. */
struct sim_model_guest {
    uint32_t content; /* of its files: an index of the model's table */
    uint8_t is_paused;
    uint8_t loose;    /* files that a write may still change */
    uint8_t unsynced; /* files that are perhaps not on its disk */
    uint8_t zero;
};

struct sim_model_snapshot {
    uint32_t id;
    struct sim_model_guest guest;
};

/* All that calls of a VM can depend on. No padding: states are compared as bytes. Snapshots in the
 * order of their ids, the rest zero. */
struct sim_model_state {
    uint8_t flags;
    uint8_t state;    /* enum kelpie_vm_state */
    uint8_t loose;    /* files that are not compared while this guest lives */
    uint8_t unsure;   /* files of writes that had no answer: they may go on in what is saved now */
    uint32_t content; /* of the guest's files: an index of the model's table */
    uint32_t source;  /* the snapshot that its guest lies over; 0: none */
    uint16_t snapshot_count;
    uint8_t unsynced; /* files whose last write is perhaps not on the disk */
    uint8_t lost;     /* files of a guest that is no more which it may have been about to write */
    struct sim_model_guest first; /* with SIM_MODEL_FROM */
    struct sim_model_snapshot snapshots[SIM_MODEL_SNAPSHOT_MAX];
};
static_assert(sizeof(struct sim_model_state) == 24 + 12 * SIM_MODEL_SNAPSHOT_MAX, "no padding");
static_assert(SIM_MODEL_FILE_MAX <= 8, "a bit for each file");
static_assert(SIM_MODEL_PIECE_MAX + SIM_MODEL_LINGER_MAX < SIM_HISTORY_CALL_MAX, "room to begin");
static_assert(sizeof(struct sim_model_state) <= SIM_HISTORY_STATE_MAX, "it has to fit");

/* A call with its answer. */
struct sim_model_entry {
    struct sim_model_call call;
    uint64_t ticket;
    bool is_open;
    bool has_answer; /* one that says what was done */
    bool is_void;    /* without an answer, and it changes nothing: any place will do */
    bool
        overlaps_change; /* with a call that takes its time: refusals need no reason of their own */
    bool overlaps_fork;  /* with one that makes the VM, and then starts it */
    bool overlaps_end;   /* with one that ends the guest: what runs there may fail */
    bool overlaps_removal;  /* a deletion by force, which stops it first */
    bool overlaps_snapshot; /* with the making of its own, which has its name at the end only */
    bool overlaps_failure;  /* a creation that failed: for a moment its VM was there */
    bool was_cut;           /* it began before the history that is still known */
    bool fork_may;          /* the snapshot may be there */
    bool fork_must;         /* it is, and nobody else does anything with it */
    uint8_t overlaps_put;   /* files of writes that it overlaps with: bits */
    struct sim_model_guest fork;
    int status;
    uint64_t result;
};

struct sim_model_vm {
    bool is_ephemeral;
    bool keeps_files;
    bool has_problem; /* one that was found when a piece was cut: `problem` */
    bool is_unknown;  /* to be taken for unknown at the piece's end */
    uint32_t open_count;
    uint64_t touched;           /* the clock, when a call of it began or ended last */
    struct sim_history history; /* ends: what the VM can be */
    struct sim_model_entry entries[SIM_HISTORY_CALL_MAX];
    char problem[SIM_MODEL_TEXT_MAX];
};

struct sim_model {
    bool is_calm;
    uint64_t clock; /* a number for each begin and end; of a begin, its ticket */
    uint64_t checked;
    uint64_t lost;
    uint32_t content_count;
    uint32_t content_capacity;
    uint64_t (*contents)[SIM_MODEL_FILE_MAX];
    /* Snapshots that other VMs were made from, which may need them: bits, by id. */
    uint64_t lent[SIM_MODEL_LENT_MAX / 64];
    struct sim_model_vm vms[SIM_MODEL_VM_MAX];
};

struct sim_model_context {
    struct sim_model *model;
    struct sim_model_vm *vm;
};

/* Steps and drifts of history.h; the context is a sim_model_context. */
uint32_t kelpie__sim_model_step(void *context, const void *state, uint32_t call, uint8_t *out);
uint32_t kelpie__sim_model_drift(void *context, const void *state, uint8_t *out);
/* The content with that file changed. */
uint32_t kelpie__sim_model_content_put(struct sim_model *model, uint32_t content, uint32_t file,
                                       uint64_t value);
/* A status that says nothing of what was done. */
bool kelpie__sim_model_is_ambiguous(int status);
/* Its guest is no more; its VM is. What depends on them is zero. */
void kelpie__sim_model_end_guest(struct sim_model_state *state);
void kelpie__sim_model_remove(struct sim_model_state *state);
/* Whether other VMs were made from it. */
bool kelpie__sim_model_is_lent(const struct sim_model *model, uint32_t snapshot);
/* NULL: it has none of that id. */
const struct sim_model_snapshot *kelpie__sim_model_snapshot(const struct sim_model_state *state,
                                                            uint32_t id);

#endif
