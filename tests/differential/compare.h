/* Compares what became of a case natively and in the guest. */
#ifndef DIFFERENTIAL_COMPARE_H
#define DIFFERENTIAL_COMPARE_H

#include <stdio.h>

#include "case.h"

enum compare_result {
    COMPARE_SAME,
    COMPARE_DIFFERENT,
    COMPARE_NOTHING, /* the native run says nothing: it left the sandbox or had to be stopped */
};

/* With 'file', prints each difference on a line. */
enum compare_result compare_outputs(const struct case_input *in, const struct case_output *native,
                                    const struct case_output *guest, FILE *file);

/* Prints the instructions and the registers of a case. */
void compare_print_case(const struct case_input *in, FILE *file);

#endif
