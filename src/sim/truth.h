/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What is true of a VM, looked up in the world: its guest, and who runs in it. For whatever judges
 * what the product says.
 */
#ifndef KELPIE_SIM_TRUTH_H
#define KELPIE_SIM_TRUTH_H

#include "sim/world.h"

#define SIM_TRUTH_VMS "/vms/"

bool kelpie__sim_truth_is_alive(const struct sim_process *process);
/* Whether a text that begins with "/vms/" names this VM's directory, or something in it. */
bool kelpie__sim_truth_names_vm(const char *directory, const char *path);
/* Its argv names the VM's directory ("/vms/NAME/", whatever is before it): what people find it by.
 */
bool kelpie__sim_truth_is_of_vm(const struct sim_process *process, const char *path);
/* The directory of the VM that the process works for: "/vms/NAME/". False: for none. */
bool kelpie__sim_truth_vm_path(const struct sim_process *process, char out[256]);
/* The same as a number, of a VM that is called "vm-INDEX", as those of a workload are. */
bool kelpie__sim_truth_vm_index(const struct sim_process *process, uint32_t *out);
/* The guest of a living VMM of that VM; NULL: none. */
struct sim_guest *kelpie__sim_truth_guest(struct sim_world *world, const char *path);
/* The guest of the VMM of this pid; NULL: it has none, or is dead. */
struct sim_guest *kelpie__sim_truth_guest_of(struct sim_world *world, int32_t pid);
/* What its VMM has to say of that VM is held back, or it stands: whoever asks it cannot know. */
bool kelpie__sim_truth_is_mute(const struct sim_guest *guest);
/* How many living processes of that VM's guest have this text in an argument. */
uint32_t kelpie__sim_truth_commands(struct sim_world *world, const char *path, const char *text);

/* Some guest's bytes were changed on their way: nobody can tell them from what it meant to say. */
bool kelpie__sim_truth_has_lied(struct sim_world *world);

#endif
