/* Runs a fuzz target over every file of the directories (or over the files) given: how the corpora
 * are replayed where libFuzzer is not linked. */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) != 0) {
        perror(path);
        return 1;
    }
    /* Exactly as large as the file, so that a read behind its end is seen. */
    size_t n = (size_t)st.st_size;
    uint8_t *data = malloc(n > 0 ? n : 1);
    if (!data || fread(data, 1, n, f) != n) {
        fprintf(stderr, "%s: could not read\n", path);
        free(data);
        fclose(f);
        return 1;
    }
    fclose(f);
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    return 0;
}

static int replay_directory(const char *path, size_t *files)
{
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    int failed = n < 0;
    if (n < 0) {
        perror(path);
    }
    for (int i = 0; i < n; i++) {
        char name[4096];
        if (names[i]->d_name[0] != '.') {
            snprintf(name, sizeof name, "%s/%s", path, names[i]->d_name);
            failed |= replay_file(name);
            *files += 1;
        }
        free(names[i]);
    }
    if (n >= 0) {
        free(names);
    }
    return failed;
}

int main(int argc, char **argv)
{
    size_t files = 0;
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
            failed |= replay_directory(argv[i], &files);
        } else {
            failed |= replay_file(argv[i]);
            files++;
        }
    }
    printf("%zu files\n", files);
    return failed || files == 0;
}
