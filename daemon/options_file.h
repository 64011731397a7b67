/* Where settings come from besides the command line. */
#ifndef OPTIONS_FILE_H
#define OPTIONS_FILE_H

#include "options.h"

/* Ranks: 0 the defaults, 1 the file, 2 and up its drop-ins in order. */
#define OPTIONS_RANK_COMMAND_LINE UINT32_MAX

/* Bytes of a line, without its newline: what inih's buffer of 200 holds. */
#define OPTIONS_LINE_BYTES 198

/* Reads options->config, or the default file where it exists, and the .conf files of FILE.d beside
 * it. */
int options_read_files(struct options *options, struct err *err);

#endif
