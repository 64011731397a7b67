# cmake -DIN=file -DOUT=file.c -DNAME=symbol -P embed.cmake: a binary file as a C array.
file(READ ${IN} hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," body "${hex}")
string(REGEX REPLACE "(................................................................................)"
  "\\1\n" body "${body}")
file(WRITE ${OUT} "#include <stddef.h>\n#include \"proto/descriptors.h\"\n"
  "const unsigned char ${NAME}[] = {\n${body}};\nconst size_t ${NAME}_bytes = ${bytes};\n")
