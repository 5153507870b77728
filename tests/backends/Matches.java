import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.regex.*;

/** Says 1 or 0 for each pair of lines on stdin, a pattern and a text in Base64, as String.matches() does. */
class Matches {
    public static void main(String[] args) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        String pattern;
        while ((pattern = in.readLine()) != null) {
            String text = decode(in.readLine());
            System.out.println(Pattern.matches(decode(pattern), text) ? 1 : 0);
        }
    }

    static String decode(String line) {
        return new String(Base64.getDecoder().decode(line), StandardCharsets.UTF_8);
    }
}
