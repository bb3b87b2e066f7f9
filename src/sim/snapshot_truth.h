/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is true of snapshots: looked up in the simulated world when one gets its name, and compared
 * with what is there later. Invariants 16 (an acknowledged one survives), 17 (one that is not whole
 * is never loaded), 18 (restored means the same guest), 21 (an identity of its own) and 22 (no byte
 * changes).
 */
#ifndef KELPIE_SIM_SNAPSHOT_TRUTH_H
#define KELPIE_SIM_SNAPSHOT_TRUTH_H

#include "sim/world.h"

struct sim_snapshots;

/* NULL without memory. */
struct sim_snapshots *kelpie__sim_snapshots_create(struct sim_world *world);
void kelpie__sim_snapshots_destroy(struct sim_snapshots *snapshots); /* takes NULL */

/* ---- what happens ---------------------------------------------------------------------------- */

/* A name in the file system is another now. */
void kelpie__sim_snapshots_renamed(struct sim_snapshots *snapshots, const char *path);
/* A guest is saved, or loaded. */
void kelpie__sim_snapshots_guest(struct sim_snapshots *snapshots, struct sim_guest *guest,
                                 const char *what);
/* One bit of the file that `text` ends with has changed by itself: bytes are not compared any more.
 */
void kelpie__sim_snapshots_rotted(struct sim_snapshots *snapshots, const char *text);
/* Whether it was once a manifest: that begins with its format, which is believed before the rest is
 * checked, for a later one may be checked in another way. */
bool kelpie__sim_snapshots_may_look_newer(const struct sim_snapshots *snapshots);
void kelpie__sim_snapshots_power_loss(struct sim_snapshots *snapshots);
/* Whoever asked for it was told that it is there. `is_durable`: it outlives the machine's death. */
void kelpie__sim_snapshots_taken(struct sim_snapshots *snapshots, const char *name,
                                 bool is_durable);
/* Somebody wants it removed; and was told that he has removed nothing. */
void kelpie__sim_snapshots_forgotten(struct sim_snapshots *snapshots, const char *name);
void kelpie__sim_snapshots_kept(struct sim_snapshots *snapshots, const char *name);
/* The VM of this directory ("/vms/NAME/", whatever is before it) is published with a guest that is
 * not the one it had before; `parent`: the id of the snapshot that it is from. */
void kelpie__sim_snapshots_arrived(struct sim_snapshots *snapshots, struct sim_guest *guest,
                                   const char *path, const char *parent);

/* ---- looking --------------------------------------------------------------------------------- */

/* Every byte of every snapshot that is there is what it was. */
void kelpie__sim_snapshots_compare(struct sim_snapshots *snapshots);
/* How often something was compared. */
uint64_t kelpie__sim_snapshots_compared(const struct sim_snapshots *snapshots);

#endif
