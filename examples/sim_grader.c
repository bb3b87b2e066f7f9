/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A grader of submissions, and the test that finds its bug. Each worker takes a lease (there are
 * few: memory is dear), makes a VM, runs the submission in it, notes the grade, and gives the lease
 * back. It forgets to when a submission runs into its timeout, which no quiet machine shows: the
 * simulator makes guests hang, finds a seed, and shrinks it to the one fault that matters.
 *
 *     sim_grader --seeds 0..99 --svg grader.svg       finds the bug
 *     sim_grader --seeds 0..99 --mended               all good
 */
#include <kelpie_sim.h>
#include <stdio.h>
#include <string.h>

#define WORKER_COUNT 3
#define SUBMISSION_COUNT 4
#define LEASE_COUNT 2

struct grader {
    struct kelpie_sim *sim;
    bool is_mended;
    int leases;  /* taken and not given back */
    int working; /* workers that are busy with a submission */
    int graded;
    int refused;
};

static bool lease_take(struct grader *grader) {
    for (int i = 0; i < 600; i += 1) {
        if (grader->leases < LEASE_COUNT) {
            grader->leases += 1;
            grader->working += 1;
            return true;
        }
        kelpie_sim_sleep_ms(grader->sim, 100);
    }
    return false; /* a minute: somebody keeps theirs */
}

static int run_submission(struct kelpie *kelpie, const char *text) {
    const char *const argv[] = {"submission", text, NULL};
    const struct kelpie_exec_options command = {
        .struct_size = sizeof(command), .argv = argv, .timeout_ms = 2000};
    struct kelpie_exec_result result = {.struct_size = sizeof(result)};
    struct kelpie_config *config = NULL;
    struct kelpie_vm *vm = NULL;
    int status = kelpie_config_create(kelpie, &config, NULL);
    if (status == 0) {
        status = kelpie_vm_create(kelpie, NULL, config, &vm, NULL);
    }
    if (status < 0) {
        return status;
    }
    status = kelpie_vm_start(vm, 0, NULL);
    if (status == 0) {
        status = kelpie_vm_exec(vm, &command, &result, NULL);
    }
    kelpie_exec_result_release(&result);
    kelpie_vm_close(vm); /* an owned VM: it goes with its handle */
    return status;
}

static void grade(struct grader *grader, struct kelpie *kelpie, const char *submission) {
    if (!lease_take(grader)) {
        grader->refused += 1;
        return;
    }
    int status = run_submission(kelpie, submission);
    grader->working -= 1;
    if (status == KELPIE_E_EXEC_TIMEOUT && !grader->is_mended) {
        return; /* the planted bug: the lease is kept */
    }
    grader->leases -= 1;
    grader->graded += status == 0;
}

static int worker(void *context, int argc, char **argv) {
    struct grader *grader = context;
    struct kelpie_open_options options = {.struct_size = sizeof(options),
                                          .state_directory = "sim:"};
    struct kelpie *kelpie = NULL;
    if (kelpie_open(&options, &kelpie, NULL) < 0) {
        return 1;
    }
    for (int i = 0; i < SUBMISSION_COUNT; i += 1) {
        grade(grader, kelpie, argc > 1 ? argv[1] : "hello");
    }
    kelpie_close(kelpie);
    return 0;
}

/* What runs in the guest: reads its argument, works a little, says what it thinks. */
static int submission(struct kelpie_sim_guest *guest, void *context, int argc, char **argv) {
    const char *text = argc > 1 ? argv[1] : "nothing";
    (void)context;
    kelpie_sim_guest_sleep_ms(guest, 1 + kelpie_sim_guest_random(guest) % 300);
    return kelpie_sim_guest_write(guest, 1, text, strlen(text)) < 0 ? 1 : 0;
}

/* Every lease has a worker that works under it. */
static bool leases_are_used(void *context) {
    const struct grader *grader = context;
    return grader->leases == grader->working;
}

static int scenario(struct kelpie_sim *sim, void *context) {
    struct grader *grader = context;
    *grader = (struct grader){.sim = sim, .is_mended = grader->is_mended};
    int status = kelpie_sim_program(sim, "worker", worker, grader, NULL);
    status = status ? status : kelpie_sim_guest_program(sim, "submission", submission, NULL, NULL);
    status = status ? status
                    : kelpie_sim_check(sim, "every lease is used", leases_are_used, grader, NULL);
    status = status ? status : kelpie_sim_fault(sim, "exec times out p=0.1", NULL);
    for (int i = 0; i < WORKER_COUNT && status == 0; i += 1) {
        const char *const arguments[] = {"good work", NULL};
        status = kelpie_sim_spawn(sim, "worker", arguments, NULL);
    }
    return status;
}

int main(int argc, char **argv) {
    static struct grader grader;
    if (argc > 1 && strcmp(argv[argc - 1], "--mended") == 0) {
        grader.is_mended = true;
        argc -= 1;
    }
    return kelpie_sim_main(argc, argv, scenario, &grader);
}
