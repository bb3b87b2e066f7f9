/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A main() for a fuzz target without libFuzzer: replays files (what a fuzzer once found), or, as
 * `--smoke SEED COUNT`, inputs from a seed: random bytes, and bytes from the alphabet of JSON.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t next(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t value = *state;
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

static void smoke(uint64_t seed, uint64_t count) {
    static const char alphabet[] = "{}[]\",:\\u0019eE+-. \n\xc3\xa9tfn";
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < count; i += 1) {
        uint64_t state = seed + i;
        size_t size = (size_t)(next(&state) % 400);
        uint8_t *data = malloc(size + 1); /* of its own, so that a sanitizer sees its end */
        for (size_t at = 0; data != NULL && at < size; at += 1) {
            uint64_t draw = next(&state);
            data[at] =
                i % 2 == 0 ? (uint8_t)draw : (uint8_t)alphabet[draw % (sizeof(alphabet) - 1)];
        }
        if (data != NULL) {
            LLVMFuzzerTestOneInput(data, size);
        }
        free(data);
    }
}

static int replay(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    uint8_t *data = malloc(INPUT_BYTES_MAX);
    size_t size = data == NULL ? 0 : fread(data, 1, INPUT_BYTES_MAX, file);
    printf("%s: %zu bytes\n", path, size);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return fclose(file) == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "--smoke") == 0) {
        smoke(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
        return 0;
    }
    int failed = 0;
    for (int i = 1; i < argc; i += 1) {
        failed |= replay(argv[i]);
    }
    return failed;
}
