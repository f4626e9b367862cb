//! Pages: what a person reads who does something wrong.

use crate::support::app::story;

story!(a_login_that_is_refused_is_a_page, async |app| {
    let page = app.get("/login").header("Accept", "text/html").await.expect(200);
    let cookie = page.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    let csrf = cookie.split_once('=').expect("a cookie").1;
    for (form, status) in [
        ("token=orl_0".to_owned(), 400),
        ("token=orl_0&csrf=".to_owned(), 400),
        ("token=orl_0&csrf=wrong".to_owned(), 403),
        (format!("token=orl_0&csrf={csrf}"), 401),
    ] {
        let refused = app
            .post("/login")
            .header("Accept", "text/html")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Cookie", &cookie)
            .body(&form)
            .await
            .expect(status);
        assert_eq!(refused.header("content-type"), "text/html; charset=utf-8", "{form}");
    }
});
