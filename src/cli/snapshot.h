/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * What the files of `kelpie snapshot` share: the forest of who came from whom, and parts of the
 * verb that have files of their own.
 */
#ifndef KELPIE_CLI_SNAPSHOT_H
#define KELPIE_CLI_SNAPSHOT_H

#include "cli/cli.h"

#define KELPIE_CLI_NO_NODE UINT32_MAX

/* A snapshot, or a VM that came from one. */
struct kelpie_cli_node {
    const struct kelpie_snapshot_info *snapshot; /* borrowed from the forest; NULL: it is a VM */
    const struct kelpie_vm_info *vm;
    uint32_t parent; /* KELPIE_CLI_NO_NODE: none, or it was removed */
    uint32_t first_child;
    uint32_t next_sibling; /* of a root: the next root */
    uint32_t depth;
    uint32_t lane; /* a first child lies in its parent's, each other one in a new one */
};

struct kelpie_cli_forest {
    struct kelpie_snapshot_info *snapshots; /* owned */
    size_t snapshot_count;
    struct kelpie_vm_info *vms; /* owned */
    size_t vm_count;
    struct kelpie_cli_node *nodes; /* owned, in the order in which they are shown */
    uint32_t node_count;
    size_t node_bytes;
    uint32_t *order; /* owned: indices of nodes, each after its parent, families together */
    uint32_t depth_max;
    uint32_t lane_count;
};

/* snapshot_tree.c: 0, or the exit code: it was reported. */
KELPIE_MUST_CHECK int kelpie__cli_forest_open(struct kelpie_cli *cli,
                                              struct kelpie_cli_forest *forest);
void kelpie__cli_forest_close(struct kelpie_cli *cli, struct kelpie_cli_forest *forest);
void kelpie__cli_forest_print(struct kelpie_cli *cli, const struct kelpie_cli_forest *forest);

/* snapshot_svg.c: a picture into a file ("-": standard output). Gives the exit code. */
KELPIE_MUST_CHECK int kelpie__cli_forest_draw(struct kelpie_cli *cli,
                                              const struct kelpie_cli_forest *forest,
                                              const char *path);

/* "42 MiB". */
void kelpie__cli_bytes(uint64_t bytes, char *out, size_t capacity);

/* snapshot_transfer.c */
int kelpie__cli_snapshot_export(struct kelpie_cli *cli);
int kelpie__cli_snapshot_import(struct kelpie_cli *cli);

#endif
